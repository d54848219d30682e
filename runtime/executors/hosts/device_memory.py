"""Tensors in the memory of the device that computed them, for its own next segments; each is copied at most once.

A tensor that one segment of a device computes and another one reads is not copied to the host and back. It is
downloaded where another device or the caller reads it, and uploaded where it was computed elsewhere: once, however many
segments read it. All copies are made between the runs of the device's own thread, as device memory cannot be used
safely beside them.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...engines.base import DeviceArray, DeviceModule
from ...plans.plan import Plan
from ...plans.plan_parts import Segment
from ...tensors.conversions import ConversionLog
from ...tensors.tensor_spec import Arrays
from ...workers.tensor_pool import TensorPool
from ..dispatch.host import SegmentRun, Tensor

_POOLED_BYTES_MIN = 1 << 20


class ResidentTensor:
    """A tensor in a device's memory, with a copy on the host where another device or the caller reads it."""

    __slots__ = ("_released", "array", "device", "device_array", "dtype", "nbytes", "shape")

    def __init__(
        self, device_array: DeviceArray, array: np.ndarray | None, device: str, released: deque[DeviceArray]
    ) -> None:  # fmt: skip
        self.device_array = device_array
        self.array = array
        self.device = device
        self.dtype = device_array.dtype
        self.shape = device_array.shape
        self.nbytes = device_array.nbytes
        self._released = released

    def __del__(self) -> None:
        # The last reader may be another device's thread: the device's own thread frees the memory.
        self._released.append(self.device_array)


class DeviceMemory:
    """The tensors of one device in a session's plan.

    Parameters
    ----------
    pool : TensorPool
        Host memory for large tensors that are downloaded.
    """

    def __init__(self, device: str, plan: Plan, pool: TensorPool) -> None:
        self._device = device
        self._pool = pool
        self._reads = Counter(s.name for segment in plan.segments if segment.device == device for s in segment.inputs)
        self._read_elsewhere = {s.name for segment in plan.segments if segment.device != device for s in segment.inputs}
        self._read_elsewhere.update(spec.name for spec in plan.outputs)
        self._released: deque[DeviceArray] = deque()
        self._uploaded: dict[int, tuple[weakref.ref[np.ndarray], DeviceArray]] = {}
        self.read_repeatedly = {name for name, count in self._reads.items() if count > 1}
        """Tensors that several segments of the device read."""

    def run(self, module: DeviceModule, segment: Segment, feeds: Mapping[str, Tensor]) -> SegmentRun:
        """Compute a segment on tensors in device memory, after uploading the others; see `Host.run`."""
        self._released.clear()
        log = ConversionLog()
        inputs = {spec.name: self._on_device(module, spec.name, feeds[spec.name], log) for spec in segment.inputs}
        start_s = time.perf_counter()
        computed = module.run_on_device(inputs)
        end_s = time.perf_counter()
        outputs = {name: self._output(name, value, log) for name, value in computed.items()}
        return SegmentRun(outputs, start_s, end_s, log)

    def close(self) -> None:
        """Free everything that is not referenced elsewhere."""
        self._uploaded.clear()
        self._released.clear()

    def _on_device(self, module: DeviceModule, name: str, tensor: Tensor, log: ConversionLog) -> DeviceArray:
        if isinstance(tensor, ResidentTensor) and tensor.device == self._device:
            return tensor.device_array
        array = on_host(tensor)
        uploaded = self._uploaded.get(id(array))
        if uploaded is not None and uploaded[0]() is array:
            return uploaded[1]
        start_s = time.perf_counter()
        device_array = module.upload(name, array)
        log.record(name, start_s, device_array.nbytes)
        if name in self.read_repeatedly:
            key = id(array)
            self._uploaded[key] = weakref.ref(array, lambda _: self._forget(key)), device_array
        return device_array

    def _forget(self, key: int) -> None:
        uploaded = self._uploaded.pop(key, None)
        if uploaded is not None:
            self._released.append(uploaded[1])

    def _output(self, name: str, value: DeviceArray | np.ndarray, log: ConversionLog) -> Tensor:
        if isinstance(value, np.ndarray):
            return value
        array = None
        if name in self._read_elsewhere:
            is_large = value.nbytes >= _POOLED_BYTES_MIN
            array = self._pool.empty(value.dtype, value.shape) if is_large else np.empty(value.shape, value.dtype)
            start_s = time.perf_counter()
            value.download(array)
            log.record(name, start_s, value.nbytes)
            if not self._reads[name]:
                return array
        return ResidentTensor(value, array, self._device, self._released)


def on_host(tensor: Tensor) -> Any:
    """Return a tensor's array on the host."""
    return tensor.array if isinstance(tensor, ResidentTensor) else tensor


def with_own_views(feeds: Arrays, memories: Iterable[DeviceMemory]) -> dict[str, np.ndarray]:
    """Return feeds with new views of those that are uploaded once for several readers.

    Uploads are found again by the identity of the array, and a caller may pass the same array with other values.
    """
    names = set().union(*(memory.read_repeatedly for memory in memories))
    return {name: array.view() if name in names else array for name, array in feeds.items()}
