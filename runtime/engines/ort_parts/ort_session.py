"""What every engine on ONNX Runtime shares: opening a session, the module over it, its bindings.

An execution provider that cannot run a node leaves it to the CPU without a word. Here that is an error which names the
nodes: a plan says where work runs, and a device that quietly is the CPU would make a lie of it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort

from ...core_affinity import Seats
from ...device import Device
from ...errors import UnsupportedModel
from ...tensors.containers import container_of, pack, pack_bits, unpack, unpack_bits
from ...tensors.conversions import ConversionLog
from ...tensors.tensor_spec import Arrays, TensorSpec
from ...tensors.tensors import bits_of, check_buffers, check_feeds, dtype_of, is_bindable, is_numpys, onnx_dtype_number
from ..base import LoadOptions
from ..common.engine_helpers import (
    closed_module_error,
    engine_error,
    refuse_open_shapes,
    signature,
    with_shapes,
)

_COPIES = ("MemcpyFromHost", "MemcpyToHost")
"""What ONNX Runtime itself puts between a device and the host: no work of the model."""
_MOST_NAMED = 5
_FATAL = 4
ort.disable_telemetry_events()  # on Windows its packages tell their makers of each session


@dataclass(frozen=True)
class Provider:
    """How a session gets to an execution provider."""

    ep_devices: Sequence[Any] = ()
    """Of `onnxruntime.get_ep_devices`; none = the provider that the device's `native` names, built into the package."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The provider's own."""
    memory: str = ""
    """ONNX Runtime's name for the device's own memory, where tensors may stay there between models."""


def open_module(
    model: Path | bytes, device: Device, options: LoadOptions, provider: Provider | None = None
) -> OrtModule:
    """Load an ONNX file on an execution provider; weights are mapped from the file where they lie beside it.

    Parameters
    ----------
    model : Path or bytes
    device : Device
        Its `native` is the provider's name.
    options : LoadOptions
        ``extra`` holds session configuration entries.
    provider : Provider, optional
        None = the CPU, where nothing can fall back.

    Raises
    ------
    EngineFailed
        With ONNX Runtime's reason in one line, or the nodes that would have run on the CPU instead.
    UnsupportedModel
        For inputs or outputs of a type that its Python interface does not carry.
    """
    label = "the model" if isinstance(model, bytes) else model.name
    declared = signature(model)
    inputs = tuple(with_shapes(spec, options.shapes) for spec in declared.inputs)
    outputs = tuple(with_shapes(spec, options.shapes) for spec in declared.outputs)
    refuse_open_shapes(device, label, inputs)
    _refuse_types(device, label, inputs, outputs)
    seats = seats_of(options)
    settings = session_options(options, seats)
    providers: list[Any] | None = [device.native]
    if provider is not None:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider.ep_devices:
            settings.add_provider_for_devices(list(provider.ep_devices), dict(provider.options))
            providers = None
        else:
            providers = [(device.native, dict(provider.options))]
    try:
        source = model if isinstance(model, bytes) else str(model)
        # Its fallback prints to standard output and goes on without the provider.
        session = ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions share no base
        raise engine_error(device, f"cannot load {label}", error) from error
    if provider is not None:
        _refuse_fallback(session, device, label)
        if provider.memory and all(is_bindable(spec) for spec in inputs + outputs):
            from .ort_device_memory import OrtDeviceModule

            return OrtDeviceModule(session, device, inputs, outputs, provider)
    return OrtModule(session, device, inputs, outputs, seats if provider is None else None)


def _refuse_types(device: Device, label: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Say beforehand what a run could not hand over: its lists hold what numpy knows, and go with such arrays only."""
    lists = [spec for spec in inputs + outputs if container_of(spec.dtype) is not None]
    foreign = [spec for spec in outputs if not is_numpys(spec.dtype)]
    unknown = [spec for spec in lists if not is_numpys(spec.dtype)]
    refused = unknown or (foreign if lists else [])
    if refused:
        why = (
            f"{refused[0].name!r} is {refused[0].dtype}, "
            f"which ONNX Runtime does not pass {'on in lists' if unknown else 'on beside lists'}"
        )
        raise UnsupportedModel(f"{device.id} cannot load {label}: {why}", remedy="place it elsewhere", reason=why)


def seats_of(options: LoadOptions) -> Seats | None:
    """Where a session's threads are to compute; None where the system decides."""
    seats = Seats.here() if options.pinned else None
    if seats is not None and options.threads not in (None, seats.count):
        return None  # fewer threads than cores: others may be meant to have the rest, and which is not said
    return seats


def session_options(options: LoadOptions, seats: Seats | None) -> ort.SessionOptions:
    """ONNX Runtime's settings for a session."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = _FATAL
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    entries = {
        "session.intra_op.allow_spinning": "1" if options.spin else "0",
        "session.inter_op.allow_spinning": "1" if options.spin else "0",
    }
    if options.spin_limit_us is not None:
        entries["session.intra_op.spin_duration_us"] = str(options.spin_limit_us)
    if options.external_data_folder is not None:
        entries["session.model_external_initializers_file_folder_path"] = options.external_data_folder
    if options.precision == "fast":
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "1"
    if seats is not None:
        # Left to itself it takes all cores of the machine, those too that this process is to keep off.
        settings.intra_op_num_threads = seats.count
        if seats.helpers:  # it counts from one
            helpers = [",".join(str(number + 1) for number in core) for core in seats.helpers]
            entries["session.intra_op_thread_affinities"] = ";".join(helpers)
    entries.update((key, str(value)) for key, value in options.extra.items())
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    for name, size in options.shapes.items():
        settings.add_free_dimension_override_by_name(name, size)
    return settings


def _refuse_fallback(session: ort.InferenceSession, device: Device, label: str) -> None:
    astray = [
        f"{node.name} ({node.op_type})" if node.name else node.op_type
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != device.native
        for node in group.get_nodes()
        if node.op_type not in _COPIES
    ]
    if astray:
        more = f" and {len(astray) - _MOST_NAMED} more" if len(astray) > _MOST_NAMED else ""
        raise engine_error(
            device,
            f"cannot load {label}",
            f"it leaves to the CPU {', '.join(astray[:_MOST_NAMED])}{more}",
            remedy="place these nodes on another device",
        )


class OrtModule:
    """A model loaded in an ONNX Runtime session; safe to run from several threads."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        seats: Seats | None = None,
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self._seats = seats
        self._session: ort.InferenceSession | None = session
        self._names = [spec.name for spec in outputs]
        self._dtypes = {spec.name: spec.dtype for spec in (*inputs, *outputs)}
        self._plain = all(is_numpys(spec.dtype) and container_of(spec.dtype) is None for spec in inputs + outputs)
        self.converts = not self._plain
        self._gives_numpys = all(is_numpys(spec.dtype) for spec in outputs)

    def run(self, feeds: Arrays, log: ConversionLog | None = None) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`."""
        checked = check_feeds(self.inputs, feeds, log)
        session = self._open()
        if self._seats is not None:
            self._seats.take()
        try:
            if self._plain:
                return dict(zip(self._names, session.run(self._names, checked), strict=True))
            if self._gives_numpys:
                given = {name: self._given(name, array, log) for name, array in checked.items()}
                return {
                    name: pack(self._dtypes[name], value) if container_of(self._dtypes[name]) else np.asarray(value)
                    for name, value in zip(self._names, session.run(self._names, given), strict=True)
                }
            given = {name: _named_value(name, array, self._dtypes[name], log) for name, array in checked.items()}
            values = session.run_with_ort_values(self._names, given)
            return {
                name: _named_array(name, value, self._dtypes[name], log)
                for name, value in zip(self._names, values, strict=True)
            }
        except Exception as error:
            raise engine_error(self.device, "could not run", error) from error

    def _given(self, name: str, array: np.ndarray, log: ConversionLog | None) -> Any:
        dtype = self._dtypes[name]
        if container_of(dtype) is not None:
            return unpack(dtype, array)
        return array if is_numpys(dtype) else _named_value(name, array, dtype, log)

    def bind(self, inputs: Arrays, outputs: Arrays) -> OrtBinding:
        """Fix buffers; see `Module.bind`. One array may be an input and an output: it is then updated in place."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        session = self._open()
        try:
            return OrtBinding(session, self.device, self.outputs, inputs, outputs, self._seats)
        except Exception as error:
            raise engine_error(self.device, "cannot bind the buffers", error) from error

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._session = None

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise closed_module_error(self.device)
        return self._session


class OrtBinding:
    """Fixed buffers on an ONNX Runtime session."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        specs: tuple[TensorSpec, ...],
        inputs: Arrays,
        outputs: Arrays,
        seats: Seats | None,
    ) -> None:
        self._device = device
        self._session = session
        self._seats = seats
        self._bound = dict(outputs)
        self._position = {spec.name: (index, spec.dtype) for index, spec in enumerate(specs)}
        self._binding = session.io_binding()
        values = {name: _value(array, array.dtype.name) for name, array in inputs.items()}
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        # Binding copies what the device cannot read where it is: such an input is stale after one run.
        places = [info.name for info in session.get_input_memory_infos()]
        self._uploads = {} if all(place == "Cpu" for place in places) else values
        for name in self._position:
            if name in outputs:
                self._binding.bind_ortvalue_output(name, _value(outputs[name], outputs[name].dtype.name))
            else:
                self._binding.bind_output(name, "cpu")

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        if self._seats is not None:
            self._seats.take()
        try:
            for name, value in self._uploads.items():
                self._binding.bind_ortvalue_input(name, value)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise engine_error(self._device, "could not run", error) from error

    def output(self, name: str) -> np.ndarray:
        """The array of an output; see `Binding.output`."""
        if name in self._bound:
            return self._bound[name]
        index, dtype = self._position[name]
        return _array(self._binding.get_outputs()[index], dtype)


def _named_value(name: str, array: np.ndarray, dtype: str, log: ConversionLog | None) -> ort.OrtValue:
    """Wrap an array as `_value` does, and record a copy."""
    start_s = time.perf_counter()
    value = _value(array, dtype)
    if log is not None and bits_of(dtype) < 8:
        log.record(name, start_s, value.tensor_size_in_bytes())
    return value


def _named_array(name: str, value: ort.OrtValue, dtype: str, log: ConversionLog | None) -> np.ndarray:
    """Unwrap a value as `_array` does, and record a copy."""
    start_s = time.perf_counter()
    array = _array(value, dtype)
    if log is not None and not is_numpys(dtype):
        log.record(name, start_s, array.nbytes)
    return array


def _value(array: np.ndarray, dtype: str) -> ort.OrtValue:
    """An OrtValue over the array's own memory; over a copy where ONNX Runtime stores several elements a byte."""
    if is_numpys(dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    number, bits = onnx_dtype_number(dtype), bits_of(dtype)
    if bits >= 8:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(f"u{bits // 8}"), number)
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), number, "cpu", 0)
    packed = pack_bits(array, bits)
    ctypes.memmove(value.data_ptr(), packed.ctypes.data, packed.nbytes)
    return value


def _array(value: ort.OrtValue, dtype: str) -> np.ndarray:
    if is_numpys(dtype):
        return cast("np.ndarray", value.numpy())
    # OrtValue.numpy() refuses what numpy has no dtype for, and the memory is freed with the value: copy the bits out.
    bits, shape = bits_of(dtype), tuple(value.shape())
    raw = np.empty(shape if bits >= 8 else value.tensor_size_in_bytes(), f"u{max(bits // 8, 1)}")
    ctypes.memmove(raw.ctypes.data, value.data_ptr(), raw.nbytes)
    return raw.view(dtype_of(dtype)) if bits >= 8 else unpack_bits(raw, bits, shape, dtype_of(dtype))
