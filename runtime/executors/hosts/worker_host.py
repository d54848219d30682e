"""A host whose segments run in a worker process on this machine, with the tensors in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ...device import Device
from ...engines.base import LoadOptions
from ...plans.plan_parts import Segment
from ...workers.channel import Channel
from ...workers.tensor_pool import TensorPool
from ...workers.worker_client import WorkerClient
from ..dispatch.host import SegmentRun, Tensor
from ..dispatch.segment_errors import loading_segment


class StartedWorker(Protocol):
    """A worker process, and the driver's end of the channel that it serves."""

    @property
    def channel(self) -> Channel: ...
    @property
    def pid(self) -> int: ...

    def kill(self) -> None:
        """End the process at once."""

    def close(self) -> None:
        """Close the channel and end the process."""


class WorkerHost:
    """Runs the segments of a device in a worker process; see `Host`.

    Parameters
    ----------
    folder : Path
        Of the plan.
    as_array : callable, optional
        Converts tensors that are not arrays of this process.
    """

    can_kill = True

    def __init__(
        self,
        device: Device,
        segments: Sequence[Segment],
        folder: Path,
        options: LoadOptions,
        pool: TensorPool,
        start_worker: Callable[[], StartedWorker],
        as_array: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self._device = device
        self._segments = segments
        self._folder = folder
        self._options = options
        self._pool = pool
        self._start_worker = start_worker
        self._as_array = as_array
        self._worker: StartedWorker | None = None
        self._client: WorkerClient | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker process; None when there is none."""
        return self._worker.pid if self._worker is not None else None

    def open(self) -> None:
        """Start a worker, in place of one that died, and load the segments; see `Host.open`."""
        self.close()
        self._worker = self._start_worker()
        self._client = WorkerClient(self._worker.channel, self._pool, self._device)
        for segment in self._segments:
            with loading_segment(segment):
                self._client.load(segment, self._folder / segment.file, self._options)

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> SegmentRun:
        """Compute one segment; see `Host.run`."""
        assert self._client is not None  # the dispatcher opens a host before it runs anything
        if self._as_array is not None:
            feeds = {name: self._as_array(tensor) for name, tensor in feeds.items()}
        return self._client.run(segment, feeds)

    def kill(self) -> None:
        """End the process; see `Host.kill`."""
        if self._worker is not None:
            self._worker.kill()

    def close(self) -> None:
        """End the process; see `Host.close`."""
        if self._worker is not None:
            self._worker.close()
            self._worker = self._client = None


def with_threads_for(options: LoadOptions, cores: Sequence[int]) -> LoadOptions:
    """Return options with one computing thread for each core of a worker, unless they set the number of threads."""
    return replace(options, threads=len(cores)) if cores and options.threads is None else options
