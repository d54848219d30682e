"""ONNX Runtime's own CPU kernels: the engine that trisect's reference numerics come from."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort

from ..devices import Device
from ..errors import EngineFailed
from ..tensors import BFLOAT16, check_buffers, check_feeds, onnx_dtype_number
from ._common import cpu_name, host_memory_bytes, reason, signature, with_shapes
from .base import Arrays, LoadOptions, TensorSpec

_DEVICE_ID = "cpu:ort"


class Engine:
    """ONNX Runtime on the CPU."""

    name = "ort"
    package = "onnxruntime"

    def devices(self) -> list[Device]:
        """The CPU, always."""
        return [
            Device(
                id=_DEVICE_ID,
                kind="cpu",
                engine=self.name,
                name=cpu_name(),
                memory_bytes=host_memory_bytes(),
                engine_version=ort.__version__,
                native="CPUExecutionProvider",
            )
        ]

    def load(self, model: Path | bytes, device: Device, options: LoadOptions) -> OrtModule:
        """Load an ONNX file; its weights are mapped from the file where they lie beside it.

        ``options.extra`` holds ONNX Runtime's session configuration entries.

        Raises
        ------
        EngineFailed
            With ONNX Runtime's reason in one line.
        """
        declared = signature(model)
        try:
            source = model if isinstance(model, bytes) else str(model)
            session = ort.InferenceSession(source, _session_options(options), providers=[device.native])
        except Exception as error:  # its exceptions share no base
            label = "the model" if isinstance(model, bytes) else model.name
            raise EngineFailed(f"{device.id} cannot load {label}: {reason(error)}") from error
        inputs = tuple(with_shapes(spec, options.shapes) for spec in declared.inputs)
        outputs = tuple(with_shapes(spec, options.shapes) for spec in declared.outputs)
        return OrtModule(session, device, inputs, outputs)


def _session_options(options: LoadOptions) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 4
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    entries = {
        "session.intra_op.allow_spinning": "1" if options.spin else "0",
        "session.inter_op.allow_spinning": "1" if options.spin else "0",
    }
    if options.precision == "fast":
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "1"
    entries.update((key, str(value)) for key, value in options.extra.items())
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    for name, size in options.shapes.items():
        settings.add_free_dimension_override_by_name(name, size)
    return settings


class OrtModule:
    """A model loaded in an ONNX Runtime session; safe to run from several threads."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self._session: ort.InferenceSession | None = session
        self._names = [spec.name for spec in outputs]
        self._plain = all(spec.dtype != "bfloat16" for spec in inputs + outputs)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Compute once; see `Module.run`."""
        checked = check_feeds(self.inputs, feeds)
        session = self._open()
        try:
            if self._plain:
                return dict(zip(self._names, session.run(self._names, checked), strict=True))
            values = session.run_with_ort_values(self._names, {name: _value(array) for name, array in checked.items()})
            return {name: _array(value) for name, value in zip(self._names, values, strict=True)}
        except Exception as error:
            raise EngineFailed(f"{self.device.id} could not run: {reason(error)}") from error

    def bind(self, inputs: Arrays, outputs: Arrays) -> OrtBinding:
        """Fix buffers; see `Module.bind`. One array may be an input and an output: it is then updated in place."""
        check_buffers(inputs, self.inputs, outputs, self.outputs)
        session = self._open()
        try:
            return OrtBinding(session, self.device, self._names, inputs, outputs)
        except Exception as error:
            raise EngineFailed(f"{self.device.id} cannot bind the buffers: {reason(error)}") from error

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._session = None

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise EngineFailed(f"the module on {self.device.id} is closed", remedy="load it again")
        return self._session


class OrtBinding:
    """Fixed buffers on an ONNX Runtime session."""

    def __init__(
        self, session: ort.InferenceSession, device: Device, names: list[str], inputs: Arrays, outputs: Arrays
    ) -> None:
        self._device = device
        self._session = session
        self._bound = dict(outputs)
        self._position = {name: index for index, name in enumerate(names)}
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, _value(array))
        for name in names:
            if name in outputs:
                self._binding.bind_ortvalue_output(name, _value(outputs[name]))
            else:
                self._binding.bind_output(name, "cpu")

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineFailed(f"{self._device.id} could not run: {reason(error)}") from error

    def output(self, name: str) -> np.ndarray:
        """The array of an output; see `Binding.output`."""
        if name in self._bound:
            return self._bound[name]
        return _array(self._binding.get_outputs()[self._position[name]])


def _value(array: np.ndarray) -> ort.OrtValue:
    """An OrtValue over the array's own memory."""
    if array.dtype == BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx_dtype_number("bfloat16"))
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: ort.OrtValue) -> np.ndarray:
    if value.data_type() != "tensor(bfloat16)":
        return cast("np.ndarray", value.numpy())
    # OrtValue.numpy() refuses bfloat16, and the memory is freed with the value: copy the bits out.
    bits = np.empty(value.shape(), np.uint16)
    ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits.view(BFLOAT16)
