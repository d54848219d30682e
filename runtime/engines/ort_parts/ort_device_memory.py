"""Modules of execution providers whose device has memory of its own: tensors stay there from one model to the next.

A run by `OrtModule` takes arrays up to the device and its outputs down again. Between two models of one device both
ways are for nothing: here the outputs are bound to the device's memory, and handed on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnxruntime as ort

from ...device import Device
from ...errors import EngineFailed, OutOfMemory
from ...tensors.tensor_spec import TensorSpec
from ...tensors.tensors import check_feeds, dtype_of, onnx_dtype_number
from ..base import DeviceArray
from ..common.engine_helpers import engine_error, reason
from .ort_session import OrtModule, Provider, _array, _value

_HOST = "Cpu"
_FULL = ("out of memory", "Failed to allocate memory", "failed to allocate")
"""What providers say of memory that is used up."""


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
            ort.copy_tensors([self.value], [_value(array, array.dtype.name)])
        except Exception as error:  # its exceptions share no base
            raise engine_error(self.device, "cannot give a tensor out", error) from error


class OrtDeviceModule(OrtModule):
    """A model on such a device; see `DeviceModule`."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        provider: Provider,
    ) -> None:
        super().__init__(session, device, inputs, outputs)
        self._memory = provider.memory
        self._info = provider.ep_devices[0].memory_info(ort.OrtDeviceMemoryType.DEFAULT)
        # A size or a shape is made on the host, where the provider itself reads it.
        self._made_there = {
            name
            for name, info in zip(self._names, session.get_output_memory_infos(), strict=True)
            if info.name != _HOST
        }

    def upload(self, name: str, array: np.ndarray) -> OrtDeviceArray:
        """Copy an input to the device; see `DeviceModule.upload`."""
        spec = next(spec for spec in self.inputs if spec.name == name)
        checked = check_feeds([spec], {name: array})[name]
        value = _value(checked, spec.dtype)
        if not checked.size:
            return OrtDeviceArray(self.device, value, spec.dtype)
        try:
            there = ort.OrtValue.ortvalue_from_shape_and_type(
                list(checked.shape), onnx_dtype_number(spec.dtype), memory_info=self._info
            )
            ort.copy_tensors([value], [there])
        except Exception as error:
            raise self._failed(f"take {name!r}", error) from error
        return OrtDeviceArray(self.device, there, spec.dtype)

    def run_on_device(self, feeds: Mapping[str, DeviceArray]) -> dict[str, DeviceArray | np.ndarray]:
        """Compute once; see `DeviceModule.run_on_device`."""
        session = self._open()
        try:
            binding = session.io_binding()
            for spec in self.inputs:
                binding.bind_ortvalue_input(spec.name, cast("OrtDeviceArray", feeds[spec.name]).value)
            for name in self._names:
                if name in self._made_there:
                    binding.bind_output(name, self._memory, self._info.device_id)
                else:
                    binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()  # when it computed is for the trace to tell, not for whoever reads first
            values = binding.get_outputs()
        except Exception as error:
            raise self._failed("run", error) from error
        return {name: self._made(name, value) for name, value in zip(self._names, values, strict=True)}

    def _made(self, name: str, value: Any) -> DeviceArray | np.ndarray:
        dtype = self._dtypes[name]
        if name in self._made_there:
            return OrtDeviceArray(self.device, value, dtype)
        return _array(value, dtype)

    def _failed(self, doing: str, error: Exception) -> EngineFailed | OutOfMemory:
        told = reason(error)
        if any(text in told for text in _FULL):
            message = f"{self.device.id} could not {doing}: {told}"
            return OutOfMemory(message, remedy="use a smaller window or smaller inputs")
        return engine_error(self.device, f"could not {doing}", error)
