"""Runs a plan in this process: tensors are handed over by reference, which costs microseconds whatever their size.

Engines release the interpreter's lock while they compute, so the threads of the devices overlap. An engine that crashes
takes the process along, and one that hangs cannot be ended: the executor ``processes`` is for those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from ..device import Device
from ..engines import load
from ..engines.base import DeviceModule, LoadOptions
from ..engines.common.bound_module import BoundModule
from ..errors import EngineFailed
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.conversions import ConversionLog
from ..tensors.tensor_spec import Arrays
from ..workers.tensor_pool import Pool
from . import Settings
from .dispatch.device_memory import DeviceMemory, on_host, own_views
from .dispatch.dispatcher import Dispatcher
from .dispatch.hosts import Ran, Tensor, refuse_absent, segments_on
from .dispatch.tensor_flow import naming

_BOUND_BYTES = 1 << 20
"""From here an engine's own memory for outputs costs more than writing into ours."""
_BOUND_ONCE_BYTES = 8 << 20
"""The same where the binding cannot be kept, because the inputs are the caller's, and no other segment reads the
outputs: the bindings of those that do can be kept then."""


def open_executor(plan: Plan, settings: Settings) -> Dispatcher:
    """Load every segment of a plan on its device, in this process.

    Raises
    ------
    InvalidPlan
        For segments that wait for each other, or read what nobody makes.
    EngineFailed
        Where an engine refuses a segment; those loaded before are closed again.
    """
    return Dispatcher(plan, lambda plan: LocalCrew(plan, settings), settings)


class LocalCrew:
    """Hosts in this process; see `Crew`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._pool = Pool(shared=False)
        options = settings.options
        # In a worker's process nobody else calls engines, and where two are to work at once each has cores of its own.
        options = replace(options, pinned=True) if options.pinned is None else options
        self._memories: dict[str, DeviceMemory] = {}
        self.hosts = {
            device.id: LocalHost(device, segments, plan, options, self._pool, self._memories)
            for device, segments in segments_on(plan).items()
        }

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """The feeds themselves, or views of them."""
        return own_views(feeds, self._memories.values()) if self._memories else feeds

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The tensors themselves: nobody else holds them any longer."""
        if self._memories:
            return {name: on_host(tensor) for name, tensor in tensors.items()}
        return dict(tensors)

    def close(self) -> None:
        """See `Crew.close`."""
        self._pool.close()


class LocalHost:
    """A device's segments in this process; see `Host`."""

    can_kill = False

    def __init__(
        self,
        device: Device,
        segments: Sequence[Segment],
        plan: Plan,
        options: LoadOptions,
        pool: Pool,
        memories: dict[str, DeviceMemory],
    ) -> None:
        self._device = device
        self._segments = segments
        self._plan = plan
        self._options = options
        self._pool = pool
        self._memories = memories
        self._modules: dict[int, BoundModule] = {}
        read = {spec.name for other in plan.segments for spec in other.inputs}
        self._bound_once = {
            segment.index: _BOUND_BYTES if any(spec.name in read for spec in segment.outputs) else _BOUND_ONCE_BYTES
            for segment in segments
        }

    def open(self) -> None:
        """Load the segments; see `Host.open`."""
        self.close()
        for segment in self._segments:
            with naming(segment):
                try:
                    module = load(Path(self._plan.folder) / segment.file, self._device, self._options)
                except EngineFailed as error:
                    refuse_absent(self._device, error)
                    raise
            self._modules[segment.index] = BoundModule(module)
        if all(isinstance(bound.module, DeviceModule) for bound in self._modules.values()):
            self._memories[self._device.id] = DeviceMemory(self._device.id, self._plan, self._pool)

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute one segment; see `Host.run`."""
        module = self._modules[segment.index]
        if self._memories:
            memory = self._memories.get(self._device.id)
            if memory is not None:
                return memory.run(cast("DeviceModule", module.module), segment, feeds)
            feeds = {name: on_host(tensor) for name, tensor in feeds.items()}
        log = ConversionLog()
        start_s = time.perf_counter()
        outputs = self._into_pool(segment, module, feeds) if feeds else None
        if outputs is None:
            outputs = module.run(feeds, log)
        return Ran(outputs, start_s, time.perf_counter(), log)

    def kill(self) -> None:
        """Nothing can end a thread."""

    def close(self) -> None:
        """Close the segments; see `Host.close`."""
        memory = self._memories.get(self._device.id)
        if memory is not None:
            memory.close()
        for module in self._modules.values():
            module.close()
        self._modules.clear()

    def _into_pool(self, segment: Segment, module: BoundModule, feeds: Arrays) -> dict[str, np.ndarray] | None:
        """Outputs in memory that is used again, where that is quicker and can be done."""
        known = module.outputs_for(feeds)
        if known is None or known.size_bytes < _BOUND_BYTES:
            return None
        pool, once = self._pool, known.size_bytes >= self._bound_once[segment.index]
        if not once and any(pool.locate(array) is None for array in feeds.values()):
            return None
        outputs = {name: pool.empty(*kind) for name, kind in known.kinds.items()}
        ran = module.run_again(feeds, outputs)
        if ran is None:
            aliases = [pool.alias(array) for array in (*feeds.values(), *outputs.values())]
            ours = [array for array in aliases if array is not None]
            if len(ours) == len(aliases):  # a binding that is kept must not keep the tensors too
                inputs = dict(zip(feeds, ours, strict=False))
                ran = module.run_into(inputs, dict(zip(outputs, ours[len(inputs) :], strict=True)), keep=True)
            else:
                ran = once and module.run_into(feeds, outputs, keep=False)
        return outputs if ran else None
