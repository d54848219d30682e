"""OpenVINO: Intel's CPU, GPU and NPU plugins, each a device of its own.

The CPU plugin computes in bfloat16 where the processor can, unless told otherwise: `LoadOptions.precision` decides.
"""

from __future__ import annotations

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
from .base import EngineCapabilities, LoadOptions
from .common.engine_errors import engine_error
from .common.host_info import host_memory_bytes
from .common.kernels import Kernel
from .common.model_signature import bind_shape, read_signature
from .openvino_parts.attention_fusion import BEAM_INPUT, fuse_attention
from .openvino_parts.openvino_kernels import measure_kernels
from .openvino_parts.openvino_model import convolves_channels_last, drop_outputs, fix_shapes, leave_bfloat16
from .openvino_parts.openvino_module import OpenVinoModule

_KINDS: dict[str, Kind] = {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}
_REFERENCE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""What makes a plugin compute in float32 throughout: it would else round activations, and the KV cache to 8 bits."""
_LACKING = ("complex64", "complex128", "float8_e4m3fnuz", "float8_e5m2fnuz", "int2", "float6_e2m3fn", "float6_e3m2fn")


class OpenVinoEngine:
    """OpenVINO's plugins."""

    name = "openvino"
    package = "openvino"
    capabilities = EngineCapabilities(internal_state=True, vendor="intel")

    def __init__(self) -> None:
        self._core = ov.Core()

    def devices(self) -> list[Device]:
        """What the plugins find on this machine; one whose driver breaks is left out."""
        found = []
        for native in self._core.available_devices:
            family, _, index = native.partition(".")
            if family not in _KINDS or (index == "0" and family in self._core.available_devices):
                continue
            kind = _KINDS[family]
            suffix = "" if index in ("", "0") else f"#{index}"
            found.append(
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
        return found

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OpenVinoModule:
        """Load an ONNX file; its weights are mapped from the file.

        ``options.extra`` holds OpenVINO's compile properties (``CACHE_DIR``, ``KV_CACHE_PRECISION``).

        Raises
        ------
        EngineFailed
            With OpenVINO's reason in one line.
        UnsupportedModel
            For inputs or outputs of strings, lists and dtypes that OpenVINO does not compute with.
        """
        label = "the model" if isinstance(model, bytes) else model.name
        declared = read_signature(model)
        for spec in declared.inputs + declared.outputs:
            if spec.dtype in ("object", *_LACKING) or container_of(spec.dtype) is not None:
                holds = "strings" if spec.dtype == "object" else spec.dtype
                why = f"{spec.name!r} holds {holds}"
                raise UnsupportedModel(
                    f"{device.id} cannot load {label}: {why}", remedy="place it on cpu:ort", reason=why
                )
        try:
            read = self._core.read_model(model) if isinstance(model, bytes) else self._core.read_model(str(model))
            fix_shapes(read, declared, options.shapes)
            kept = [spec for spec in declared.outputs if options.outputs is None or spec.name in options.outputs]
            drop_outputs(read, {spec.name for spec in kept} | set(options.state.values()))
            properties = self._properties(device, options)
            if properties.get("INFERENCE_PRECISION_HINT") == "bf16":
                kept = leave_bfloat16(read, kept, options.native_outputs)
            fused = fuse_attention(read, options.state) if options.state and device.kind == "cpu" else 0
            if options.state and not fused:
                apply_make_stateful_transformation(read, dict(options.state))
            compiled = self._core.compile_model(read, device.native, properties)
            request = compiled.create_infer_request()
            if fused:
                request.set_tensor(BEAM_INPUT, ov.Tensor(np.arange(fused, dtype=np.int32)))
        except Exception as error:  # plugins raise RuntimeError and its own kinds alike
            raise engine_error(device, f"cannot load {label}", error) from error
        inputs = tuple(bind_shape(s, options.shapes) for s in declared.inputs if s.name not in options.state)
        gone = set(options.state.values())
        outputs = tuple(bind_shape(s, options.shapes) for s in kept if s.name not in gone)
        return OpenVinoModule(compiled, request, device, inputs, outputs, options.state)

    def keeps_channels_last(self, device: Device) -> bool:
        """Whether images lie with their channels last inside; see `trisect.runtime.engines.keeps_channels_last`."""
        if device.kind != "cpu":
            return False
        try:
            return convolves_channels_last(self._core, device.native, self._properties(device, LoadOptions()))
        except Exception:  # a version that tells nothing of what it compiled
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
        wanted: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if options.threads is not None:
            wanted["INFERENCE_NUM_THREADS"] = str(options.threads)
        if options.precision != "fast":
            wanted |= _REFERENCE
        elif "BF16" in (self._property(device.native, "OPTIMIZATION_CAPABILITIES") or ()):
            wanted |= {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
        if options.precision == "fast" and options.scale_group is not None:
            wanted["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(options.scale_group)
        known = set(self._property(device.native, "SUPPORTED_PROPERTIES") or ())
        return {name: value for name, value in wanted.items() if name in known} | dict(options.extra)

    def _property(self, native: str, name: str) -> Any:
        try:
            return self._core.get_property(native, name)
        except Exception:  # a plugin that lacks the property, or whose driver is broken
            return None

    def _memory_bytes(self, native: str, kind: Kind) -> int | None:
        if kind == "cpu":
            return host_memory_bytes()
        size = self._property(native, f"{kind.upper()}_DEVICE_TOTAL_MEM_SIZE")
        return int(size) if size else None
