"""Runs a plan in this process: tensors are passed by reference, which costs microseconds whatever their size.

Engines release Python's interpreter lock while they compute, so the threads of the devices overlap. An engine that
crashes ends the process, and one that hangs cannot be ended; the executor ``processes`` survives both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from ..device import Device
from ..engines import load
from ..engines.base import DeviceModule, LoadOptions, Module
from ..engines.common.bound_module import BoundModule
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import Arrays
from ..workers.tensor_pool import TensorPool
from .dispatch.dispatcher import Dispatcher
from .dispatch.execution import ExecutorSettings
from .dispatch.host import SegmentRun, Tensor, segments_by_device
from .dispatch.segment_errors import loading_segment
from .hosts.device_memory import DeviceMemory, on_host, with_own_views

_BOUND_BYTES_MIN = 1 << 20
"""From this size on, allocating outputs by the engine costs more than writing into pooled memory."""
_BOUND_ONCE_BYTES_MIN = 8 << 20
"""The same where the binding cannot be reused, because the inputs are the caller's, and no other segment reads the
outputs: then the bindings of the segments that do can be reused."""


Loader = Callable[[Path, Device, LoadOptions], Module]
"""Loads a segment's file on a device."""


def open_executor(plan: Plan, settings: ExecutorSettings, load_segment: Loader | None = None) -> Dispatcher:
    """Load every segment of a plan on its device, in this process; see `trisect.runtime.executors.open_executor`.

    Parameters
    ----------
    load_segment : callable, optional
        Loads a segment, or returns the module of an equal one that another plan has loaded.
    """
    return Dispatcher(plan, lambda plan: ThreadHostGroup(plan, settings, load_segment), settings)


class ThreadHostGroup:
    """Hosts in this process; see `HostGroup`."""

    def __init__(self, plan: Plan, settings: ExecutorSettings, load_segment: Loader | None = None) -> None:
        self._pool = TensorPool(shared=False)
        options = settings.options
        # Two engines in one process would share cores: here each gets cores of its own unless the user decides.
        options = replace(options, pinned=True) if options.pinned is None else options
        self._memories: dict[str, DeviceMemory] = {}
        self.hosts = {
            device.id: ThreadHost(device, segments, plan, options, self._pool, self._memories, load_segment)
            for device, segments in segments_by_device(plan).items()
        }

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """Return the feeds themselves, or views of them."""
        return with_own_views(feeds, self._memories.values()) if self._memories else feeds

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Return the tensors themselves: nothing else references them any more."""
        if self._memories:
            return {name: on_host(tensor) for name, tensor in tensors.items()}
        return dict(tensors)

    def close(self) -> None:
        """See `HostGroup.close`."""
        self._pool.close()


class ThreadHost:
    """Runs the segments of a device in this process; see `Host`.

    Parameters
    ----------
    memories : dict of str to DeviceMemory
        Device id -> its memory, shared by the hosts of a plan; a host whose engine has device memory adds its own.
    load_segment : callable
        As for `open_executor`.
    """

    can_kill = False

    def __init__(
        self,
        device: Device,
        segments: Sequence[Segment],
        plan: Plan,
        options: LoadOptions,
        pool: TensorPool,
        memories: dict[str, DeviceMemory],
        load_segment: Loader | None = None,
    ) -> None:
        self._device = device
        self._load_segment = load_segment
        self._segments = segments
        self._plan = plan
        self._options = options
        self._pool = pool
        self._memories = memories
        self._modules: dict[int, BoundModule] = {}
        read = {spec.name for other in plan.segments for spec in other.inputs}
        self._bound_once_bytes_min = {
            segment.index: _BOUND_BYTES_MIN
            if any(spec.name in read for spec in segment.outputs)
            else _BOUND_ONCE_BYTES_MIN
            for segment in segments
        }

    def open(self) -> None:
        """Load the segments; see `Host.open`."""
        self.close()
        for segment in self._segments:
            with loading_segment(segment):
                load_segment = self._load_segment or load
                module = load_segment(Path(self._plan.folder) / segment.file, self._device, self._options)
            self._modules[segment.index] = BoundModule(module)
        if all(isinstance(bound.module, DeviceModule) for bound in self._modules.values()):
            self._memories[self._device.id] = DeviceMemory(self._device.id, self._plan, self._pool)

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> SegmentRun:
        """Compute one segment; see `Host.run`."""
        module = self._modules[segment.index]
        if self._memories:
            memory = self._memories.get(self._device.id)
            if memory is not None:
                return memory.run(cast("DeviceModule", module.module), segment, feeds)
            feeds = {name: on_host(tensor) for name, tensor in feeds.items()}
        log = ConversionLog()
        start_s = time.perf_counter()
        outputs = self._run_into_pool(segment, module, feeds) if feeds else None
        if outputs is None:
            outputs = module.run(feeds, log)
        return SegmentRun(outputs, start_s, time.perf_counter(), log)

    def kill(self) -> None:
        """Do nothing: a thread cannot be ended."""

    def close(self) -> None:
        """Close the segments; see `Host.close`."""
        memory = self._memories.get(self._device.id)
        if memory is not None:
            memory.close()
        for module in self._modules.values():
            module.close()
        self._modules.clear()

    def _run_into_pool(self, segment: Segment, module: BoundModule, feeds: Arrays) -> dict[str, np.ndarray] | None:
        """Compute into pooled memory; None where that is impossible or slower than the engine's own allocation."""
        expected = module.expected_outputs(feeds)
        if expected is None or expected.size_bytes < _BOUND_BYTES_MIN:
            return None
        pool, binds_once = self._pool, expected.size_bytes >= self._bound_once_bytes_min[segment.index]
        if not binds_once and any(pool.locate(array) is None for array in feeds.values()):
            return None
        outputs = {name: pool.empty(*kind) for name, kind in expected.kinds.items()}
        succeeded = module.run_again(feeds, outputs)
        if succeeded is None:
            aliases = [pool.alias(array) for array in (*feeds.values(), *outputs.values())]
            pooled = [array for array in aliases if array is not None]
            if len(pooled) == len(aliases):  # a cached binding must not keep the tensors alive
                inputs = dict(zip(feeds, pooled, strict=False))
                bound_outputs = dict(zip(outputs, pooled[len(inputs) :], strict=True))
                succeeded = module.run_into(inputs, bound_outputs, keep=True)
            else:
                succeeded = binds_once and module.run_into(feeds, outputs, keep=False)
        return outputs if succeeded else None
