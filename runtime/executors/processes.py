"""Runs a plan in one process per device: for engines that compete for cores, that crash, or that hang.

Tensors lie in memory that all processes share; passing one takes two small messages, whatever its size. Processes of
CPU engines that compute at the same time are pinned to cores of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..core_affinity import assign_cores
from ..device import Device
from ..engines.base import LoadOptions
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.tensor_spec import Arrays
from ..workers.messages import is_shareable
from ..workers.tensor_pool import TensorPool
from ..workers.worker_process import WorkerProcess
from .dispatch.dispatcher import Dispatcher
from .dispatch.execution import ExecutorSettings
from .dispatch.host import Tensor, segments_by_device
from .hosts.worker_host import WorkerHost, with_threads_for


def open_executor(plan: Plan, settings: ExecutorSettings) -> Dispatcher:
    """Start a process for each device and load its segments; see `trisect.runtime.executors.open_executor`."""
    return Dispatcher(plan, lambda plan: ProcessHostGroup(plan, settings), settings)


class ProcessHostGroup:
    """Hosts in child processes; see `HostGroup`."""

    def __init__(self, plan: Plan, settings: ExecutorSettings) -> None:
        self._pool = TensorPool(shared=True)
        self._read = {spec.name for segment in plan.segments for spec in segment.inputs}
        used = segments_by_device(plan)
        cores = assign_cores(list(used), settings.options.threads, side_by_side=plan.objective == "throughput")
        self.hosts = {
            device.id: process_host(
                device, segments, Path(plan.folder), settings.options, self._pool, cores[device.id]
            )
            for device, segments in used.items()
        }  # fmt: skip

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """Copy the feeds to shared memory; they are not copied again."""
        return {name: self._shared(name, array) for name, array in feeds.items()}

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Return the tensors in shared memory, which is the caller's until the arrays are gone."""
        return dict(tensors)

    def close(self) -> None:
        """See `HostGroup.close`."""
        self._pool.close()

    def _shared(self, name: str, array: np.ndarray) -> np.ndarray:
        if name not in self._read or not is_shareable(array) or self._pool.locate(array) is not None:
            return array
        return self._pool.copy(array)


def process_host(
    device: Device,
    segments: Sequence[Segment],
    folder: Path,
    options: LoadOptions,
    pool: TensorPool,
    cores: tuple[int, ...],
) -> WorkerHost:
    """Return a host that runs the segments of a device in a child process on some cores; none = all."""
    return WorkerHost(
        device, segments, folder, with_threads_for(options, cores), pool, partial(WorkerProcess, cores)
    )  # fmt: skip
