"""Hosts for `ray` on other nodes: the driver passes references, and tensors go from node to node.

What a segment makes stays in the object store of its node until it is wanted: two nodes that follow one another in a
plan exchange tensors without the driver. A node that dies takes its tensors along, which shows as `TensorLost`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import errors
from ...cluster.cluster_nodes import Node, unanswered
from ...cluster.device_actor import INLINE_BYTES, Report, setup, unwrap, wrap
from ...cluster.ray_connection import Connection
from ...device import Device
from ...errors import ClusterFailed, DeviceLost, EngineFailed, TensorLost, TrisectError
from ...plans.plan_parts import Segment
from ...tensors.containers import carried_bytes
from .. import Settings
from ..dispatch.hosts import Ran, Tensor
from ..dispatch.tensor_flow import naming
from .ray_actors import START_S, start_actor

_CLOCK_TRIES = 5


@dataclass(frozen=True)
class FarTensor:
    """A tensor in the object store of some node."""

    ref: Any
    nbytes: int


class Carrier:
    """Turns arrays into references and back."""

    def __init__(self, connection: Connection) -> None:
        self._ray = connection.ray
        self._put: dict[int, tuple[weakref.ref[np.ndarray], Any]] = {}

    def reference(self, value: Tensor) -> Any:
        """What to ask an actor with: a large array is put into this node's object store once, whoever reads it."""
        if isinstance(value, FarTensor):
            return value.ref
        if carried_bytes(value) <= INLINE_BYTES:
            return wrap(value)
        key = id(value)
        known = self._put.get(key)
        if known is not None and known[0]() is value:
            return known[1]
        ref = self._ray.put(wrap(value))
        self._put[key] = (weakref.ref(value, lambda _: self._put.pop(key, None)), ref)
        return ref

    def array(self, value: Tensor) -> Any:
        """A tensor as an array of this process, which must not be written to.

        Raises
        ------
        TensorLost
            When the node that had it is gone.
        """
        if not isinstance(value, FarTensor):
            return value
        try:
            return unwrap(self._ray.get(value.ref))
        except self._ray.exceptions.RayError as error:
            raise _tensor_lost(error) from error


class FarHost:
    """A device's segments in an actor on another node; see `Host`."""

    can_kill = True

    def __init__(
        self,
        connection: Connection,
        node: Node,
        device: Device,
        segments: Sequence[Segment],
        settings: Settings,
        carrier: Carrier,
        brought: Callable[[Node, Sequence[Segment]], str],
    ) -> None:
        self._ray = connection.ray
        self._connection = connection
        self._node = node
        self._device = device
        self._segments = segments
        self._settings = settings
        self._carrier = carrier
        self._brought = brought
        self._ahead_s = 0.0
        self._is_fresh = True
        self._actor: Any = start_actor(connection, node, device)  # starts while the others do

    def open(self) -> None:
        """Bring the plan's files there and load the segments; see `Host.open`."""
        if not self._is_fresh:
            self.close()
            self._actor = start_actor(self._connection, self._node, self._device)
        self._is_fresh = False
        try:
            self._wait_for_actor()
            folder = self._brought(self._node, self._segments)
            how = setup(replace(self._device, id=self._device.local_id), self._settings.options)
            loads = [self._actor.load.remote(how, folder, [_loading(segment)]) for segment in self._segments]
            for segment, answer in zip(self._segments, loads, strict=True):
                with naming(segment):
                    _raise_told(self._ray.get(answer))
            self._ahead_s = self._measured_ahead_s()
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute one segment; see `Host.run`."""
        given = [self._carrier.reference(feeds[spec.name]) for spec in segment.inputs]
        names = [spec.name for spec in segment.outputs]
        asked_s = time.perf_counter()
        try:
            answers = self._actor.run.options(num_returns=1 + len(names)).remote(segment.index, *given)
            first, *outputs = answers if names else [answers]
            report: Report = self._ray.get(first)
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error
        now_s = time.perf_counter()
        _raise_told(report)
        # Clocks of two machines agree to some fraction of a message's time: never before we asked, never after it came.
        end_s = min(max(report.end_s - self._ahead_s, asked_s), now_s)
        start_s = min(max(report.start_s - self._ahead_s, asked_s), end_s)
        made = [FarTensor(ref, size) for ref, size in zip(outputs, report.sizes_bytes, strict=True)]
        converted = [
            c._replace(start_s=c.start_s - self._ahead_s, end_s=c.end_s - self._ahead_s) for c in report.converted
        ]
        return Ran(dict(zip(names, made, strict=True)), start_s, end_s, converted)

    def kill(self) -> None:
        """End the actor; see `Host.kill`."""
        if self._actor is not None:
            self._ray.kill(self._actor)

    def close(self) -> None:
        """End the actor; see `Host.close`."""
        self.kill()
        self._actor = None

    def _wait_for_actor(self) -> None:
        ready, _ = self._ray.wait([self._actor.clock_s.remote()], timeout=START_S)
        if not ready:
            taken = f", or its trisect_{self._device.kind} is in use" if self._node.resources else ""
            raise ClusterFailed(
                f"node {self._node.name} started no process for {self._device.id} within {START_S:.0f} s{taken}",
                remedy="see: ray status",
            )

    def _measured_ahead_s(self) -> float:
        """How far the actor's clock is ahead of ours, from the quickest of a few questions."""
        best = (float("inf"), 0.0)
        for _ in range(_CLOCK_TRIES):
            asked_s = time.perf_counter()
            theirs_s = self._ray.get(self._actor.clock_s.remote())
            now_s = time.perf_counter()
            best = min(best, (now_s - asked_s, theirs_s - (asked_s + now_s) / 2))
        return best[1]

    def _lost(self, error: BaseException) -> TrisectError:
        """What Ray reports: a feed that is gone is not this device's fault."""
        lost = self._ray.exceptions.ObjectLostError
        if isinstance(error, lost) or isinstance(getattr(error, "cause", None), lost):
            return _tensor_lost(error)
        return DeviceLost(f"the worker of {self._device.id} is gone: {unanswered(self._node.name, error).message}")


def _loading(segment: Segment) -> tuple[int, str, tuple[str, ...], tuple[str, ...]]:
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (segment.inputs, segment.outputs))
    return segment.index, segment.file, inputs, outputs


def _raise_told(report: Report) -> None:
    """The error that a report tells of, as if it had arisen here."""
    if report.error is not None:
        name, message, remedy = report.error
        kind = getattr(errors, name, EngineFailed)  # an engine from elsewhere may have errors of its own
        raise kind(message, remedy=remedy)


def _tensor_lost(error: BaseException) -> TensorLost:
    return TensorLost(f"a tensor went down with its node ({type(error).__name__})")
