"""Hosts on other nodes of a Ray cluster: the driver passes references, and the tensors go from node to node.

What a segment computes stays in the object store of its node until it is needed: two nodes that follow one another in a
plan exchange tensors without the driver. A node that dies takes its tensors along, which raises `TensorLost`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...cluster.cluster_nodes import ClusterNode
from ...cluster.device_actor import INLINE_BYTES, RunReport, encode_setup, from_ray_value, to_ray_value
from ...cluster.ray_connection import RayConnection
from ...device import Device
from ...engines.base import LoadOptions
from ...errors import ClusterFailed, TensorLost, TrisectError, error_from_record
from ...plans.plan_parts import Segment
from ...tensors.containers import total_bytes
from ...workers.messages import dtype_from_name
from ..dispatch.host import SegmentRun, Tensor
from ..dispatch.segment_errors import loading_segment
from .ray_actors import START_TIMEOUT_S, ActorStarter, worker_lost

_CLOCK_SAMPLES = 5


@dataclass(frozen=True)
class RemoteTensor:
    """A tensor in the object store of a node."""

    ref: Any
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int


class ObjectStore:
    """Puts arrays into this node's object store and gets them from any."""

    def __init__(self, connection: RayConnection) -> None:
        self._ray = connection.ray
        self._put: dict[int, tuple[weakref.ref[np.ndarray], Any]] = {}

    def reference(self, tensor: Tensor) -> Any:
        """Return what an actor is called with: a large array is put into the store once for all its readers."""
        if isinstance(tensor, RemoteTensor):
            return tensor.ref
        if total_bytes(tensor) <= INLINE_BYTES:
            return to_ray_value(tensor)
        key = id(tensor)
        stored = self._put.get(key)
        if stored is not None and stored[0]() is tensor:
            return stored[1]
        ref = self._ray.put(to_ray_value(tensor))
        self._put[key] = (weakref.ref(tensor, lambda _: self._put.pop(key, None)), ref)
        return ref

    def array(self, tensor: Tensor) -> Any:
        """Return a tensor as a read-only array of this process.

        Raises
        ------
        TensorLost
            Where the node that held it is gone.
        """
        if not isinstance(tensor, RemoteTensor):
            return tensor
        try:
            return from_ray_value(self._ray.get(tensor.ref))
        except self._ray.exceptions.RayError as error:
            raise _tensor_lost(error) from error


class RemoteHost:
    """Runs the segments of a device in an actor on another node; see `Host`.

    Parameters
    ----------
    send_plan : callable
        Copies the files of segments to a node, and returns the folder there.
    """

    can_kill = True

    def __init__(
        self,
        connection: RayConnection,
        node: ClusterNode,
        device: Device,
        segments: Sequence[Segment],
        options: LoadOptions,
        store: ObjectStore,
        send_plan: Callable[[ClusterNode, Sequence[Segment]], str],
    ) -> None:
        self._ray = connection.ray
        self._node = node
        self._device = device
        self._segments = segments
        self._options = options
        self._store = store
        self._send_plan = send_plan
        self._clock_offset_s = 0.0
        self._actors = ActorStarter(connection, node, device)
        self._actor: Any = None

    def open(self) -> None:
        """Copy the plan's files to the node and load the segments; see `Host.open`."""
        self.close()
        self._actor = self._actors.start()
        try:
            self._wait_for_actor()
            folder = self._send_plan(self._node, self._segments)
            setup = encode_setup(replace(self._device, id=self._device.local_id), self._options)
            replies = [
                self._actor.load.remote(
                    setup, folder, segment.index, segment.file,
                    tuple(spec.name for spec in segment.inputs), tuple(spec.name for spec in segment.outputs),
                )
                for segment in self._segments
            ]  # fmt: skip
            for segment, reply in zip(self._segments, replies, strict=True):
                with loading_segment(segment):
                    _raise_reported(self._ray.get(reply))
            self._clock_offset_s = self._measure_clock_offset_s()
        except self._ray.exceptions.RayError as error:
            raise self._explain(error) from error

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> SegmentRun:
        """Compute one segment; see `Host.run`."""
        references = [self._store.reference(feeds[spec.name]) for spec in segment.inputs]
        names = [spec.name for spec in segment.outputs]
        sent_s = time.perf_counter()
        try:
            replies = self._actor.run.options(num_returns=1 + len(names)).remote(segment.index, *references)
            first, *outputs = replies if names else [replies]
            report: RunReport = self._ray.get(first)
        except self._ray.exceptions.RayError as error:
            raise self._explain(error) from error
        received_s = time.perf_counter()
        _raise_reported(report)
        # The clocks of two machines agree to some fraction of a message's time: clip to what is possible.
        offset_s = self._clock_offset_s
        end_s = min(max(report.end_s - offset_s, sent_s), received_s)
        start_s = min(max(report.start_s - offset_s, sent_s), end_s)
        tensors = [
            RemoteTensor(ref, dtype_from_name(value.dtype), value.shape, value.size_bytes)
            for ref, value in zip(outputs, report.outputs, strict=True)
        ]
        converted = [
            conversion._replace(start_s=conversion.start_s - offset_s, end_s=conversion.end_s - offset_s)
            for conversion in report.converted
        ]
        return SegmentRun(dict(zip(names, tensors, strict=True)), start_s, end_s, converted)

    def kill(self) -> None:
        """End the actor; see `Host.kill`."""
        if self._actor is not None:
            self._ray.kill(self._actor)

    def close(self) -> None:
        """End the actor; see `Host.close`."""
        self.kill()
        self._actor = None

    def _wait_for_actor(self) -> None:
        ready, _ = self._ray.wait([self._actor.clock_s.remote()], timeout=START_TIMEOUT_S)
        if not ready:
            in_use = f", or its trisect_{self._device.kind} is in use" if self._node.resources else ""
            raise ClusterFailed(
                f"node {self._node.name} started no process for {self._device.id} within "
                f"{START_TIMEOUT_S:.0f} s{in_use}",
                remedy="see: ray status",
            )

    def _measure_clock_offset_s(self) -> float:
        """Return how far the actor's clock is ahead of ours, from the quickest of several round trips."""
        best = (float("inf"), 0.0)
        for _ in range(_CLOCK_SAMPLES):
            sent_s = time.perf_counter()
            remote_s = self._ray.get(self._actor.clock_s.remote())
            received_s = time.perf_counter()
            best = min(best, (received_s - sent_s, remote_s - (sent_s + received_s) / 2))
        return best[1]

    def _explain(self, error: BaseException) -> TrisectError:
        """Return Ray's error as ours: an input that is lost does not mean that this device is."""
        lost = self._ray.exceptions.ObjectLostError
        if isinstance(error, lost) or isinstance(getattr(error, "cause", None), lost):
            return _tensor_lost(error)
        return worker_lost(self._node, self._device, error)


def _raise_reported(report: RunReport) -> None:
    """Raise the error in an actor's report, if there is one."""
    if report.error is not None:
        raise error_from_record(report.error)


def _tensor_lost(error: BaseException) -> TensorLost:
    return TensorLost(f"a tensor was lost with its node ({type(error).__name__})")
