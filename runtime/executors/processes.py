"""Runs a plan in a process per device: for engines that fight over cores, that crash, or that hang.

Tensors lie in memory that all processes share; a hand-over is two small messages, whatever its size. Processes of CPU
engines that are to work at the same time are kept on cores of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..device import Device
from ..engines.base import LoadOptions
from ..errors import EngineFailed
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.tensor_spec import Arrays
from ..workers.tensor_pool import Pool
from ..workers.worker_client import Worker
from ..workers.worker_process import WorkerProcess
from . import Settings
from .dispatch.dispatcher import Dispatcher
from .dispatch.hosts import Ran, Tensor, refuse_absent, segments_on
from .dispatch.tensor_flow import naming


def open_executor(plan: Plan, settings: Settings) -> Dispatcher:
    """Start a process for each device, and load its segments there.

    Raises
    ------
    InvalidPlan
        For segments that wait for each other, or read what nobody makes.
    EngineFailed
        Where an engine refuses a segment, or dies of it; all processes are ended again.
    """
    return Dispatcher(plan, lambda plan: ProcessCrew(plan, settings), settings)


class ProcessCrew:
    """Hosts in processes of their own; see `Crew`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._pool = Pool(shared=True)
        self._read = {spec.name for segment in plan.segments for spec in segment.inputs}
        used = segments_on(plan)
        cores = cores_for(list(used), settings.options.threads, split=plan.objective == "throughput")
        self.hosts = {
            device.id: ProcessHost(device, segments, Path(plan.folder), settings.options, self._pool, cores[device.id])
            for device, segments in used.items()
        }

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """Feeds in shared memory: the one copy on their way."""
        return {name: self._shared(name, array) for name, array in feeds.items()}

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The tensors where they lie: the memory is the caller's until it lets go."""
        return dict(tensors)

    def close(self) -> None:
        """See `Crew.close`."""
        self._pool.close()

    def _shared(self, name: str, array: np.ndarray) -> np.ndarray:
        plain = array.nbytes > 0 and array.dtype.kind not in "OUS"
        if name not in self._read or not plain or self._pool.locate(array) is not None:
            return array
        return self._pool.copy(array)


class ProcessHost:
    """A device's segments in a process of their own; see `Host`."""

    can_kill = True

    def __init__(
        self,
        device: Device,
        segments: Sequence[Segment],
        folder: Path,
        options: LoadOptions,
        pool: Pool,
        cores: tuple[int, ...],
    ) -> None:
        self._device = device
        self._segments = segments
        self._folder = folder
        self._options = replace(options, threads=len(cores)) if cores and options.threads is None else options
        self._pool = pool
        self._cores = cores
        self._process: WorkerProcess | None = None
        self._worker: Worker | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None when there is none."""
        return self._process.pid if self._process is not None else None

    def open(self) -> None:
        """Start a process, in place of one that is gone, and load the segments; see `Host.open`."""
        self.close()
        self._process = WorkerProcess(self._cores)
        self._worker = Worker(self._process.channel, self._pool, self._device)
        try:
            for segment in self._segments:
                with naming(segment):
                    self._worker.load(segment, self._folder / segment.file, self._options)
        except EngineFailed as error:
            refuse_absent(self._device, error)
            raise

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute one segment; see `Host.run`."""
        assert self._worker is not None  # a lane opens its host before it runs anything
        return self._worker.run(segment, feeds)

    def kill(self) -> None:
        """End the process; see `Host.kill`."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process; see `Host.close`."""
        if self._process is not None:
            self._process.close()
            self._process = self._worker = None


def cores_for(devices: Sequence[Device], threads: int | None, *, split: bool) -> dict[str, tuple[int, ...]]:
    """Processor cores for each device's process; none where it may use all.

    Parameters
    ----------
    devices : sequence of Device
    threads : int, optional
        Computing threads of each: as many cores, of its own, if there are enough.
    split : bool
        Whether CPU engines are to work at the same time rather than in turn: they share the cores out.

    Examples
    --------
    >>> cpu = [Device(f"cpu:{name}", "cpu", name, "") for name in ("ort", "openvino")]
    >>> cores_for(cpu, None, split=False)
    {'cpu:ort': (), 'cpu:openvino': ()}
    """
    own = [device.id for device in devices if device.kind == "cpu"]
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = threads if threads is not None else (len(available) // max(1, len(own)) if split and len(own) > 1 else 0)
    if not each or each * len(own) > len(available):
        each = 0
    return {
        device.id: tuple(available[own.index(device.id) * each :][:each]) if device.id in own else ()
        for device in devices
    }
