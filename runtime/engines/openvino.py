"""OpenVINO: Intel's CPU, GPU and NPU plugins, each a device of its own.

The CPU plugin computes in bfloat16 where the processor can, unless told otherwise: `LoadOptions.precision` decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
from openvino._offline_transformations import apply_make_stateful_transformation

from ..device import Device, Kind, Limits
from ..errors import EngineFailed, InvalidInput, TrisectError, UnsupportedModel
from ..tensors.containers import container_of, pack_bits, unpack_bits
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import Arrays, TensorSpec
from ..tensors.tensors import bits_of, check_buffers, check_feeds, contiguous, dtype_of
from .base import EngineCapabilities, LoadOptions
from .common.engine_helpers import closed_module_error, engine_error, host_memory_bytes, signature, with_shapes
from .common.kernels import Kernel
from .openvino_parts.attention_fusion import BEAM_INPUT, fuse_attention
from .openvino_parts.openvino_model import convolves_channels_last, drop_outputs, fix_shapes, leave_bfloat16

_KINDS: dict[str, Kind] = {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}
_REFERENCE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""What makes a plugin compute in float32 throughout: it would else round activations, and the KV cache to 8 bits."""
_FOREIGN = {
    "bfloat16": ov.Type.bf16,
    "float8_e4m3fn": ov.Type.f8e4m3,
    "float8_e5m2": ov.Type.f8e5m2,
    "float8_e8m0fnu": ov.Type.f8e8m0,
    "float4_e2m1fn": ov.Type.f4e2m1,
    "int4": ov.Type.i4,
    "uint4": ov.Type.u4,
    "uint2": ov.Type.u2,
}
"""dtypes that numpy lacks."""
_FOREIGN_DTYPES = frozenset(dtype_of(name) for name in _FOREIGN)
_LACKING = ("complex64", "complex128", "float8_e4m3fnuz", "float8_e5m2fnuz", "int2", "float6_e2m3fn", "float6_e3m2fn")
_LONG_LONG = {"q": np.int64, "Q": np.uint64} if np.dtype("q") == np.int64 else {}
"""C's long long, which ONNX Runtime's 64-bit integers come as: equal to int64 for numpy, unknown to OpenVINO."""


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
        declared = signature(model)
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
        inputs = tuple(with_shapes(s, options.shapes) for s in declared.inputs if s.name not in options.state)
        gone = set(options.state.values())
        outputs = tuple(with_shapes(s, options.shapes) for s in kept if s.name not in gone)
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
        """What it makes of a model's nodes; see `ProfilingEngine.kernels`."""
        from .openvino_parts.openvino_kernels import kernels

        with closing(
            self.load(model, device, replace(options, extra={**options.extra, "PERF_COUNT": "YES"}))
        ) as module:
            return kernels(model, module, feeds, duration_s)

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


class OpenVinoModule:
    """A compiled model with one infer request; runs are serialised by a lock."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        request: ov.InferRequest,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        state: Mapping[str, str],
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self.converts = any(spec.dtype in _FOREIGN for spec in inputs + outputs)
        self._state = {parameter + result: parameter for parameter, result in state.items()}
        self._lock = threading.Lock()
        self._current: object = None
        self._compiled: ov.CompiledModel | None = compiled
        self._request: ov.InferRequest | None = request
        self._in_ports = _ports(compiled.inputs, inputs)
        self._out_ports = _ports(compiled.outputs, outputs)
        lost = next((spec.name for spec in outputs if spec.name not in self._out_ports), None)
        if lost is not None:
            raise EngineFailed(
                f"{device.id} lost the output {lost!r} while compiling", remedy="place it elsewhere", device=device.id
            )
        self._empty = {name: (port.get_element_type(), _empty_shape(port)) for name, port in self._out_ports.items()}

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`. Outputs are written where they are returned, never copied."""
        checked = check_feeds(self.inputs, feeds, log)
        inputs = {name: _tensor(array, name, log) for name, array in checked.items()}
        # Tensors of the run's own: it sizes them, and the arrays returned keep them alive without a copy.
        outputs = {name: ov.Tensor(dtype, shape) for name, (dtype, shape) in self._empty.items()}
        self._infer(object(), inputs, outputs)
        return {spec.name: _array(outputs[spec.name], spec, log) for spec in self.outputs}

    def bind(self, inputs: Arrays, outputs: Arrays) -> OpenVinoBinding:
        """Fix buffers; see `Module.bind`."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        reading = {name: _tensor(array) for name, array in inputs.items()}
        writing = {name: ov.Tensor(*empty) for name, empty in self._empty.items() if name not in outputs}
        writing |= {name: _tensor(array) for name, array in outputs.items()}
        return OpenVinoBinding(self, reading, writing, outputs)

    def set_state(self, values: Arrays) -> None:
        """Put tensors in the state; see `StatefulModule.set_state`."""
        unknown = set(values) - set(self._state.values())
        if unknown:
            raise InvalidInput(f"{min(unknown)!r} is no state of this model", remedy="name the inputs given as state")
        with self._lock, self._failures("set its state"):
            for variable in self._open().query_state():
                name = self._state[variable.name]
                if name in values:
                    variable.state = _tensor(contiguous(values[name]))

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of the state's tensors; see `StatefulModule.get_state`."""
        with self._lock, self._failures("give its state"):
            return {self._state[state.name]: np.array(state.state.data) for state in self._open().query_state()}

    def reset_state(self) -> None:
        """Empty the state; see `StatefulModule.reset_state`."""
        with self._lock, self._failures("reset its state"):
            self._open().reset_state()

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        with self._lock:
            self._request = None
            self._compiled = None
            self._in_ports = self._out_ports = {}

    def _open(self) -> ov.InferRequest:
        if self._request is None:
            raise closed_module_error(self.device)
        return self._request

    def _infer(self, owner: object, inputs: Mapping[str, ov.Tensor], outputs: Mapping[str, ov.Tensor]) -> None:
        with self._lock:
            request = self._open()
            try:
                if self._current is not owner:
                    self._current = None
                    for name, port in self._in_ports.items():
                        request.set_tensor(port, inputs[name])
                    for name, port in self._out_ports.items():
                        request.set_tensor(port, outputs[name])
                    self._current = owner
                request.infer()
            except Exception as error:
                raise self._failed("run", error) from error

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except TrisectError:
            raise
        except Exception as error:
            raise self._failed(doing, error) from error

    def _failed(self, doing: str, error: Exception) -> EngineFailed:
        """Of plugins, which raise RuntimeError, TypeError and ValueError alike."""
        return engine_error(self.device, f"could not {doing}", error)


class OpenVinoBinding:
    """Fixed buffers on a compiled model."""

    def __init__(
        self, module: OpenVinoModule, inputs: Mapping[str, ov.Tensor], outputs: Mapping[str, ov.Tensor], bound: Arrays
    ) -> None:
        self._module = module
        self._inputs = inputs
        self._outputs = outputs
        self._bound = dict(bound)
        self._specs = {spec.name: spec for spec in module.outputs}

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        self._module._infer(self, self._inputs, self._outputs)

    def output(self, name: str) -> np.ndarray:
        """The array of an output; see `Binding.output`. One that the engine holds is overwritten by the next run."""
        return self._bound[name] if name in self._bound else _array(self._outputs[name], self._specs[name])


def _ports(ports: list[Any], specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Name -> port, of those that are left.

    OpenVINO keeps the file's order, but merges the names of tensors that it finds equal and drops inputs that decide
    nothing.
    """
    if len(ports) == len(specs):
        return {spec.name: port for spec, port in zip(specs, ports, strict=True)}
    return {spec.name: port for spec in specs for port in ports if spec.name in port.names}


def _tensor(array: np.ndarray, name: str = "", log: ConversionLog | None = None) -> ov.Tensor:
    """A tensor over the array's own memory; over a copy where several elements share a byte."""
    if array.dtype.char in _LONG_LONG:
        array = array.view(_LONG_LONG[array.dtype.char])
    if array.dtype in _FOREIGN_DTYPES:
        foreign = _FOREIGN[array.dtype.name]
        bits = bits_of(array.dtype.name)
        if bits >= 8:
            return ov.Tensor(array.view(f"u{bits // 8}"), ov.Shape(array.shape), foreign)
        start_s = time.perf_counter()
        raw = pack_bits(array, bits)
        if log is not None:
            log.record(name, start_s, raw.nbytes)
        return ov.Tensor(raw, ov.Shape(array.shape), foreign)
    if not array.flags.writeable:  # the constructor that takes a type does not ask for more than reading
        return ov.Tensor(array, array.shape, ov.Type(array.dtype))
    return ov.Tensor(array, shared_memory=True)


def _empty_shape(port: Any) -> ov.Shape:
    """The shape that an output's tensor starts with: of no elements where the run decides its size."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ov.Shape([0])
    return ov.Shape([0 if dim.is_dynamic else dim.get_length() for dim in shape])


def _array(tensor: ov.Tensor, spec: TensorSpec, log: ConversionLog | None = None) -> np.ndarray:
    data = cast("np.ndarray", tensor.data)
    if spec.dtype not in _FOREIGN:
        return data
    dtype, bits = dtype_of(spec.dtype), bits_of(spec.dtype)
    if bits >= 8:
        return data.view(dtype)
    start_s = time.perf_counter()
    array = unpack_bits(data.reshape(-1).view(np.uint8), bits, tuple(tensor.shape), dtype)
    if log is not None:
        log.record(spec.name, start_s, array.nbytes)
    return array
