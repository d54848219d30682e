"""Modules of execution providers whose device has memory of its own: tensors stay there from one model to the next.

A run of `OrtModule` uploads its inputs and downloads its outputs, which is wasted between two models on one device.
Here outputs are bound to the device's memory, and passed on without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed, OutOfMemory
from ...tensors.dtypes import dtype_of, onnx_dtype_number
from ...tensors.feed_checks import check_feeds
from ...tensors.tensor_spec import TensorSpec
from ..base import DeviceArray, DeviceBinding
from ..common.engine_errors import engine_error, vendor_message
from .ort_module import OrtModule
from .ort_values import unwrap_value, wrap_array
from .recorded_binding import RecordedBinding, run_options

_HOST = "Cpu"
_UNRECORDED = -1
"""Number of the recording of runs that are not recorded, by a session that records all others."""
_FULL = ("out of memory", "Failed to allocate memory", "failed to allocate")
"""Parts of the messages with which providers report that memory is exhausted."""


class OrtDeviceArray:
    """A tensor in a device's memory; see `DeviceArray`."""

    def __init__(self, device: Device, value: ort.OrtValue, dtype: str) -> None:
        self.device = device
        self.value = value
        self.dtype = dtype_of(dtype)
        self.shape = tuple(value.shape())
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def download(self, array: np.ndarray) -> None:
        """Copy it to the host; see `DeviceArray.download`."""
        if not array.size:
            return
        try:
            ort.copy_tensors([self.value], [wrap_array(array, array.dtype.name)])
        except Exception as error:  # its exceptions share no base
            raise engine_error(self.device, "cannot download a tensor", error) from error


class OrtDeviceModule(OrtModule):
    """A model on a device with memory of its own; see `BindableDeviceModule`.

    Parameters
    ----------
    memory : str
        ONNX Runtime's name for the device's memory.
    ep_device : onnxruntime.OrtEpDevice
        Its hardware unit.
    captures : bool
        Its runs are recorded, unless they say that they are not.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        memory: str,
        ep_device: Any,
        *,
        captures: bool = False,
    ) -> None:
        super().__init__(session, device, inputs, outputs)
        self._captures = captures
        self._recordings = 0
        self._memory = memory
        self._info = ep_device.memory_info(ort.OrtDeviceMemoryType.DEFAULT)
        self._host_inputs = {
            node.name
            for node, info in zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
            if info.name == _HOST
        }
        # Sizes and shapes are computed on the host, where the provider itself reads them.
        self._on_device = {
            name
            for name, info in zip(self._names, session.get_output_memory_infos(), strict=True)
            if info.name != _HOST
        }

    def upload(self, name: str, array: np.ndarray) -> OrtDeviceArray:
        """Copy an input to the device; see `DeviceModule.upload`."""
        spec = next(spec for spec in self.inputs if spec.name == name)
        checked = check_feeds([spec], {name: array})[name]
        value = wrap_array(checked, spec.dtype)
        if not checked.size or name in self._host_inputs:
            return OrtDeviceArray(self.device, value, spec.dtype)
        try:
            uploaded = ort.OrtValue.ortvalue_from_shape_and_type(
                list(checked.shape), onnx_dtype_number(spec.dtype), memory_info=self._info
            )
            ort.copy_tensors([value], [uploaded])
        except Exception as error:
            raise self._failed(f"upload {name!r}", error) from error
        return OrtDeviceArray(self.device, uploaded, spec.dtype)

    def run_on_device(self, feeds: Mapping[str, DeviceArray]) -> dict[str, DeviceArray | np.ndarray]:
        """Compute once; see `DeviceModule.run_on_device`."""
        session = self._open()
        try:
            binding = session.io_binding()
            for spec in self.inputs:
                binding.bind_ortvalue_input(spec.name, cast("OrtDeviceArray", feeds[spec.name]).value)
            for name in self._names:
                if name in self._on_device:
                    binding.bind_output(name, self._memory, self._info.device_id)
                else:
                    binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding, run_options(_UNRECORDED if self._captures else None))
            binding.synchronize_outputs()  # so that the trace shows the computation here, not at the first read
            values = binding.get_outputs()
        except Exception as error:
            raise self._failed("run", error) from error
        return {name: self._output(name, value) for name, value in zip(self._names, values, strict=True)}

    def bind_on_device(
        self,
        inputs: Mapping[str, DeviceArray | np.ndarray],
        outputs: Mapping[str, DeviceArray | np.ndarray],
        *,
        repeats: bool = False,
    ) -> DeviceBinding:
        """Fix the buffers; see `BindableDeviceModule.bind_on_device`."""
        session = self._open()
        try:
            if self._captures and repeats:
                self._recordings += 1
                buffers = {spec.name: self._buffer(spec.name, inputs[spec.name]) for spec in self.inputs}
                buffers |= {spec.name: self._buffer(spec.name, outputs[spec.name]) for spec in self.outputs}
                return RecordedBinding(session, self.device, (inputs, outputs), buffers, self._recordings)
            recording = _UNRECORDED if self._captures else None
            return OrtDeviceBinding(session, self.device, inputs, outputs, self._host_inputs, recording)
        except Exception as error:
            raise self._failed("bind the buffers", error) from error

    def _buffer(self, name: str, tensor: DeviceArray | np.ndarray) -> ort.OrtValue:
        """Return a tensor's own buffer on the device, or a new one for an array on the host."""
        if not isinstance(tensor, np.ndarray):
            return cast("OrtDeviceArray", tensor).value
        if name in self._host_inputs:
            return wrap_array(tensor, tensor.dtype.name)
        number = onnx_dtype_number(tensor.dtype.name)
        return ort.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), number, memory_info=self._info)

    def _output(self, name: str, value: Any) -> DeviceArray | np.ndarray:
        dtype = self._dtypes[name]
        if name in self._on_device:
            return OrtDeviceArray(self.device, value, dtype)
        return unwrap_value(value, dtype)

    def _failed(self, doing: str, error: Exception) -> EngineFailed | OutOfMemory:
        return _failure(self.device, doing, error)


class OrtDeviceBinding:
    """Tensors in a device's memory and arrays on the host, bound to a session; see `DeviceBinding`.

    Parameters
    ----------
    host_inputs : set of str
        Inputs that the provider reads on the host.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: Mapping[str, DeviceArray | np.ndarray],
        outputs: Mapping[str, DeviceArray | np.ndarray],
        host_inputs: set[str],
        recording: int | None = None,
    ) -> None:
        self._options = run_options(recording)
        self._device = device
        self._session = session
        self._outputs = {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}
        self._binding = session.io_binding()
        # Binding copies an array to the device: it has to be bound again for each run.
        self._uploads: dict[str, ort.OrtValue] = {}
        self.uploaded_bytes = 0
        for name, tensor in inputs.items():
            if isinstance(tensor, np.ndarray):
                value = wrap_array(tensor, tensor.dtype.name)
                if name not in host_inputs:
                    self._uploads[name] = value
                    self.uploaded_bytes += tensor.nbytes
            else:
                value = cast("OrtDeviceArray", tensor).value
            self._binding.bind_ortvalue_input(name, value)
        for name, tensor in outputs.items():
            if isinstance(tensor, np.ndarray):
                self._binding.bind_ortvalue_output(name, wrap_array(tensor, tensor.dtype.name))
            else:
                self._binding.bind_ortvalue_output(name, cast("OrtDeviceArray", tensor).value)

    def run(self) -> None:
        """Compute once; see `Binding.run`."""
        try:
            for name, value in self._uploads.items():
                self._binding.bind_ortvalue_input(name, value)
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise _failure(self._device, "run", error) from error

    def output(self, name: str) -> np.ndarray:
        """Return the array of an output that is bound to one; see `Binding.output`."""
        return self._outputs[name]


def _failure(device: Device, doing: str, error: Exception) -> EngineFailed | OutOfMemory:
    reason = vendor_message(error)
    if any(text in reason for text in _FULL):
        message = f"{device.id} could not {doing}: {reason}"
        return OutOfMemory(message, remedy="use a smaller window or smaller inputs")
    return engine_error(device, f"could not {doing}", reason)
