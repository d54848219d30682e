"""Keeps tensors in the memory of the device that made them, for its own next segments, and copies each but once.

What one segment of a device makes and another one reads does not come down to the host and go up again. A tensor comes
down where another device or the caller reads it, and goes up where it was made elsewhere: once, however many segments
read it. All of it is done between the runs of the device's own lane, as device memory is not safe to touch beside them.
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
from ...workers.tensor_pool import Pool
from .hosts import Ran, Tensor

_POOLED_BYTES = 1 << 20


class Kept:
    """A tensor in a device's memory, and on the host too where somebody else reads it."""

    __slots__ = ("_left", "array", "device", "nbytes", "there")

    def __init__(self, there: DeviceArray, array: np.ndarray | None, device: str, left: deque[DeviceArray]) -> None:
        self.there = there
        self.array = array
        self.device = device
        self.nbytes = there.nbytes
        self._left = left

    def __del__(self) -> None:
        # Whoever reads it last may be another device's thread: the device's own frees the memory.
        self._left.append(self.there)


class DeviceMemory:
    """One device's tensors, in a session's plan.

    Parameters
    ----------
    device : str
    plan : Plan
    pool : Pool
        Where large tensors come down to.
    """

    def __init__(self, device: str, plan: Plan, pool: Pool) -> None:
        self._device = device
        self._pool = pool
        self._reads = Counter(s.name for segment in plan.segments if segment.device == device for s in segment.inputs)
        self._elsewhere = {s.name for segment in plan.segments if segment.device != device for s in segment.inputs}
        self._elsewhere.update(spec.name for spec in plan.outputs)
        self._left: deque[DeviceArray] = deque()
        self._uploaded: dict[int, tuple[weakref.ref[np.ndarray], DeviceArray]] = {}
        self.read_again = {name for name, count in self._reads.items() if count > 1}
        """Tensors that several segments here read."""

    def run(self, module: DeviceModule, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute a segment on what is there, and on what it brings there; see `Host.run`."""
        self._left.clear()
        log = ConversionLog()
        given = {spec.name: self._there(module, spec.name, feeds[spec.name], log) for spec in segment.inputs}
        start_s = time.perf_counter()
        made = module.run_on_device(given)
        end_s = time.perf_counter()
        outputs = {name: self._handed_on(name, value, log) for name, value in made.items()}
        return Ran(outputs, start_s, end_s, log)

    def close(self) -> None:
        """Let go of everything that nobody holds."""
        self._uploaded.clear()
        self._left.clear()

    def _there(self, module: DeviceModule, name: str, tensor: Tensor, log: ConversionLog) -> DeviceArray:
        if isinstance(tensor, Kept) and tensor.device == self._device:
            return tensor.there
        array = on_host(tensor)
        known = self._uploaded.get(id(array))
        if known is not None and known[0]() is array:
            return known[1]
        start_s = time.perf_counter()
        there = module.upload(name, array)
        log.record(name, start_s, there.nbytes)
        if name in self.read_again:
            key = id(array)
            self._uploaded[key] = weakref.ref(array, lambda _: self._forget(key)), there
        return there

    def _forget(self, key: int) -> None:
        known = self._uploaded.pop(key, None)
        if known is not None:
            self._left.append(known[1])

    def _handed_on(self, name: str, value: DeviceArray | np.ndarray, log: ConversionLog) -> Tensor:
        if isinstance(value, np.ndarray):
            return value
        array = None
        if name in self._elsewhere:
            large = value.nbytes >= _POOLED_BYTES
            array = self._pool.empty(value.dtype, value.shape) if large else np.empty(value.shape, value.dtype)
            start_s = time.perf_counter()
            value.download(array)
            log.record(name, start_s, value.nbytes)
            if not self._reads[name]:
                return array
        return Kept(value, array, self._device, self._left)


def on_host(tensor: Tensor) -> Any:
    """The array that a tensor is, or has on the host."""
    return tensor.array if isinstance(tensor, Kept) else tensor


def own_views(feeds: Arrays, memories: Iterable[DeviceMemory]) -> dict[str, np.ndarray]:
    """Feeds of which those that go up once for several readers are this item's own arrays.

    A caller may use an array again, with other numbers in it.
    """
    names = set().union(*(memory.read_again for memory in memories))
    return {name: array.view() if name in names else array for name, array in feeds.items()}
