"""Plans without models, and hosts that run them in Python, so that the dispatcher's state is tested without threads.

A segment adds up its inputs and its index: what a plan computes is known without running it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.errors import DeviceLost
from trisect.runtime.executors import ExecutorSettings, ItemResult
from trisect.runtime.executors.dispatch.dispatcher_state import DispatcherState
from trisect.runtime.executors.dispatch.in_flight_items import InFlightItem
from trisect.runtime.executors.dispatch.loaded_plan import LoadedPlan
from trisect.runtime.executors.dispatch.segment_graph import SegmentGraph
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.workers.worker_client import SegmentRun


def plan_of(segments: Sequence[tuple[str, Sequence[str], Sequence[str]]], outputs: Sequence[str]) -> Plan:
    """A plan of segments given as (device, inputs, outputs); ``x`` is the model's input."""

    def specs(names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", ("n",)) for name in names)

    devices = dict.fromkeys(device for device, _, _ in segments)
    return Plan(
        model="m.onnx", model_sha256="", devices=tuple(Device(id, "cpu", "none", id) for id in devices), placement={},
        segments=tuple(
            Segment(index, device, (f"node {index}",), specs(inputs), specs(made), f"segment-{index}.onnx")
            for index, (device, inputs, made) in enumerate(segments)
        ),
        transfers=(), inputs=specs(["x"]), outputs=specs(outputs), strategy="by hand", objective="latency", seed=0,
        shapes={}, predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder="",
    )  # fmt: skip


def expected(plan: Plan, x: np.ndarray) -> dict[str, np.ndarray]:
    """What a plan computes, from its definition; segments are in order."""
    tensors = {"x": x}
    for segment in plan.segments:
        total = sum((tensors[spec.name] for spec in segment.inputs), np.zeros_like(x)) + segment.index
        tensors.update((spec.name, total + number) for number, spec in enumerate(segment.outputs))
    return {spec.name: tensors[spec.name] for spec in plan.outputs}


class PythonHost:
    """Computes the segments of a device; what opening does is the test's to say."""

    def __init__(self, can_kill: bool, opens: Callable[[], None]) -> None:
        self.can_kill = can_kill
        self.opened = self.killed = self.closed = 0
        self._opens = opens

    def open(self) -> None:
        self._opens()
        self.opened += 1

    def run(self, segment: Segment, feeds: Mapping[str, np.ndarray]) -> SegmentRun:
        start_s = time.perf_counter()
        shape = next(iter(feeds.values())).shape if feeds else (1,)
        total = sum(feeds.values(), np.zeros(shape, np.float32)) + segment.index
        outputs = {spec.name: (total + number).astype(np.float32) for number, spec in enumerate(segment.outputs)}
        return SegmentRun(outputs, start_s, time.perf_counter())

    def kill(self) -> None:
        self.killed += 1

    def close(self) -> None:
        self.closed += 1


class PythonHostGroup:
    """A `PythonHost` per device of a plan."""

    def __init__(self, plan: Plan, *, can_kill: bool = True, opens: Callable[[], None] = lambda: None) -> None:
        self.hosts = {device.id: PythonHost(can_kill, opens) for device in plan.devices}
        self.refused: BaseException | None = None

    def admit(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self.refused is not None:
            raise self.refused
        return feeds

    def deliver(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(tensors)

    def close(self) -> None:
        pass


def loaded(plan: Plan, lock: threading.Lock | None = None, **group: object) -> LoadedPlan:
    """A plan on hosts, without threads."""
    return LoadedPlan(plan, SegmentGraph.of(plan), PythonHostGroup(plan, **group), lock or threading.Lock())


def state_of(settings: ExecutorSettings, plan: Plan, **group: object) -> DispatcherState:
    """A dispatcher's state with a plan in use."""
    state = DispatcherState(settings)
    state.loaded = loaded(plan, state.lock, **group)
    return state


def item_of(number: int, rows: int = 2) -> InFlightItem:
    future: Future[ItemResult] = Future()
    return InFlightItem(number, {"x": np.full(rows, number, np.float32)}, future)


def failing(times: int) -> Callable[[], None]:
    """Raises so often, and then no more."""
    left = [times]

    def opens() -> None:
        if left[0]:
            left[0] -= 1
            raise DeviceLost("its model is gone from the disk", remedy="restore it")

    return opens
