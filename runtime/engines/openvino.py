"""OpenVINO: Intel's CPU, GPU and NPU plugins, each a device of its own.

The CPU plugin computes in bfloat16 by default where the processor can; `LoadOptions.precision` selects the precision.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino._offline_transformations import apply_make_stateful_transformation

from ..device import Device, Kind, Limits
from ..errors import UnsupportedModel
from ..tensors.containers import container_of
from ..tensors.tensor_spec import Arrays
from .base import EngineCapabilities, EngineMemory, LoadOptions
from .common.decoder_support import DecoderSupport
from .common.engine_errors import engine_error
from .common.host_info import host_memory_bytes
from .common.kernels import Kernel
from .common.model_signature import bind_shape, model_label, read_signature
from .openvino_parts.attention_fusion import BEAM_INPUT, fuse_attention
from .openvino_parts.exact_division import divide_exactly
from .openvino_parts.expert_translation import ExpertTranslation
from .openvino_parts.openvino_kernels import measure_kernels
from .openvino_parts.openvino_model import (
    convolves_channels_last,
    copy_passed_inputs,
    drop_outputs,
    fix_shapes,
    leave_bfloat16,
)
from .openvino_parts.openvino_module import OpenVinoModule

log = logging.getLogger(__name__)

_PROVED = ("2026.4.1",)
"""Versions whose CPU plugin tests compare with float32 for language models."""
_KINDS: dict[str, Kind] = {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}
_FUSES_ATTENTION = ("cpu", "gpu")
_PRECISION = "INFERENCE_PRECISION_HINT"
_FLOAT32 = {
    _PRECISION: "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
"""Computation in float32 throughout: by default activations and the KV cache are quantised to 8 bits."""
_STATE_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "u8"}
_NPU_ON_CPU = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_F16IC": "NO", "NPUW_ONLINE_PIPELINE": "NONE"}
"""The wrapper compiles the model whole, with float32 inputs and outputs: cut into repeated blocks, which is its
default, a decoder whose last layer differs gave wrong scores, and so did a blob from its cache (OpenVINO 2026.4.1)."""
_UNSUPPORTED = (
    "complex64",
    "complex128",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "int2",
    "float6_e2m3fn",
    "float6_e3m2fn",
)


class OpenVinoEngine:
    """OpenVINO's plugins."""

    name = "openvino"
    package = "openvino"
    capabilities = EngineCapabilities(
        internal_state=True,
        half_precision_kinds=frozenset({"npu"}),
        # One copy in the layout that it compiles for, and one for the lengths of the first prompt; a second one of the
        # head. Measured with 2026.4 on random models of 1.2 billion parameters: within 7 %.
        memory=EngineMemory(copies=2.5, bytes_per_block=4, bytes_per_offset=4, bytes_per_float=6),
        vendor="intel",
    )

    def __init__(self) -> None:
        self._core = ov.Core()
        self._experts = ExpertTranslation(self._core)

    def devices(self) -> list[Device]:
        """Return the devices of all plugins that work on this machine."""
        devices = []
        for native in self._core.available_devices:
            family, _, index = native.partition(".")
            if family not in _KINDS or (index == "0" and family in self._core.available_devices):
                continue
            kind = _KINDS[family]
            suffix = "" if index in ("", "0") else f"#{index}"
            devices.append(
                Device(
                    id=f"{kind}:{self.name}{suffix}",
                    kind=kind,
                    engine=self.name,
                    name=str(self._property(native, "FULL_DEVICE_NAME") or native),
                    memory_bytes=self._memory_bytes(native, kind),
                    engine_version=ov.__version__.split("-")[0],
                    native=native,
                    limits=Limits(static_shapes=kind == "npu"),
                )
            )
        return devices

    def named_devices(self) -> list[Device]:
        """Return the NPU plugin computing on the CPU, where its library is installed: used only where a user names it.

        The plugin's wrapper (NPUW) compiles and runs models of fixed shapes as on an NPU, but with the CPU plugin.
        """
        if self._property("NPU", "SUPPORTED_PROPERTIES") is None:
            return []
        return [
            Device(
                id="npu:npuw",
                kind="npu",
                engine=self.name,
                name="OpenVINO's NPU plugin, computing on the CPU",
                reality="simulated",
                engine_version=ov.__version__.split("-")[0],
                native="NPU",
                limits=Limits(static_shapes=True),
            )
        ]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OpenVinoModule:
        """Load an ONNX file; its weights are memory-mapped.

        ``options.extra`` holds OpenVINO's compile properties (``CACHE_DIR``, ``KV_CACHE_PRECISION``).

        Raises
        ------
        EngineFailed
            With OpenVINO's reason in one line.
        UnsupportedModel
            For inputs or outputs of strings, containers and dtypes that OpenVINO does not support.
        """
        label = model_label(model)
        declared = read_signature(model)
        for spec in declared.inputs + declared.outputs:
            if spec.dtype in ("object", *_UNSUPPORTED) or container_of(spec.dtype) is not None:
                holds = "strings" if spec.dtype == "object" else spec.dtype
                why = f"{spec.name!r} holds {holds}"
                raise UnsupportedModel(
                    f"{device.id} cannot load {label}: {why}", remedy="place it on cpu:ort", reason=why
                )
        try:
            self._experts.take_mapped()
            read = self._core.read_model(model) if isinstance(model, bytes) else self._core.read_model(str(model))
            mapped = self._experts.take_mapped()
            fix_shapes(read, declared, options.shapes)
            if device.kind == "cpu":
                divide_exactly(read)
            selected = [spec for spec in declared.outputs if options.outputs is None or spec.name in options.outputs]
            drop_outputs(read, {spec.name for spec in selected} | set(options.state.values()))
            copy_passed_inputs(read)
            properties = self._properties(device, options)
            if properties.get("INFERENCE_PRECISION_HINT") == "bf16":
                selected = leave_bfloat16(read, selected, options.native_outputs)
            # The GPU plugin fuses the same form, which OpenVINO GenAI writes for both; on no GPU tried here.
            sequences = fuse_attention(read, options.state) if options.state and device.kind in _FUSES_ATTENTION else 0
            if options.state and not sequences:
                apply_make_stateful_transformation(read, dict(options.state))
            compiled = self._compiled(read, device, properties)
            request = compiled.create_infer_request()
            if sequences:
                request.set_tensor(BEAM_INPUT, ov.Tensor(np.arange(sequences, dtype=np.int32)))
        except Exception as error:  # plugins raise RuntimeError and exceptions of their own
            raise engine_error(device, f"cannot load {label}", error) from error
        inputs = tuple(bind_shape(s, options.shapes) for s in declared.inputs if s.name not in options.state)
        internal = set(options.state.values())
        outputs = tuple(bind_shape(s, options.shapes) for s in selected if s.name not in internal)
        return OpenVinoModule(compiled, request, device, inputs, outputs, options.state, mapped)

    def decoder_support(self, device: Device) -> DecoderSupport:
        """Return how it runs language models; see `trisect.runtime.engines.decoder_support`."""
        if device.kind == "npu":
            if device.is_real:
                return DecoderSupport(("static",))
            return DecoderSupport(("static",), evidence="stand-in", proved_versions=_PROVED)
        if device.kind == "gpu":
            return DecoderSupport(("stateful",))
        return DecoderSupport(("stateful", "growing"), evidence="hardware", proved_versions=_PROVED)

    def _compiled(self, model: ov.Model, device: Device, properties: dict[str, Any]) -> ov.CompiledModel:
        if device.reality != "simulated":
            return self._core.compile_model(model, device.native, properties)
        # The wrapper passes no precision on to the CPU plugin, whose default may be bfloat16.
        before = self._core.get_property("CPU", _PRECISION)
        self._core.set_property("CPU", {_PRECISION: "f32"})
        try:
            return self._core.compile_model(model, device.native, properties)
        finally:
            self._core.set_property("CPU", {_PRECISION: before})

    def keeps_channels_last(self, device: Device) -> bool:
        """Return whether convolutions compute in NHWC; see `trisect.runtime.engines.keeps_channels_last`."""
        if device.kind != "cpu":
            return False
        try:
            return convolves_channels_last(self._core, device.native, self._properties(device, LoadOptions()))
        except Exception as error:  # a version that does not report its layouts
            log.debug("the layouts of %s are unknown: %s", device.id, error)
            return False

    def kernels(
        self, model: Path, device: Device, options: LoadOptions, feeds: Arrays, duration_s: float
    ) -> tuple[Kernel, ...]:
        """Measure the kernels of a model; see `ProfilingEngine.kernels`."""
        with closing(
            self.load(model, device, replace(options, extra={**options.extra, "PERF_COUNT": "YES"}))
        ) as module:
            return measure_kernels(model, module, feeds, duration_s)

    def _properties(self, device: Device, options: LoadOptions) -> dict[str, Any]:
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = str(options.threads)
        if options.precision != "fast":
            properties |= _FLOAT32
        elif device.kind == "gpu":
            # Otherwise it may compress the cache to 8 bits, and then refuses to copy keys and values in and out.
            properties |= {"INFERENCE_PRECISION_HINT": "f16", "KV_CACHE_PRECISION": "f16"}
        elif "BF16" in (self._property(device.native, "OPTIMIZATION_CAPABILITIES") or ()):
            properties |= {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
        if options.precision == "fast" and options.scale_group is not None:
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(options.scale_group)
        if options.state_dtype is not None:
            properties["KV_CACHE_PRECISION"] = _STATE_DTYPES[options.state_dtype]
        if device.reality == "simulated":
            return _NPU_ON_CPU | dict(options.extra)
        supported = set(self._property(device.native, "SUPPORTED_PROPERTIES") or ())
        return {name: value for name, value in properties.items() if name in supported} | dict(options.extra)

    def _property(self, native: str, name: str) -> Any:
        try:
            return self._core.get_property(native, name)
        except Exception as error:  # a plugin without the property, or with a broken driver
            log.debug("%s has no property %s: %s", native, name, error)
            return None

    def _memory_bytes(self, native: str, kind: Kind) -> int | None:
        if kind == "cpu":
            return host_memory_bytes()
        size = self._property(native, f"{kind.upper()}_DEVICE_TOTAL_MEM_SIZE")
        return int(size) if size else None
