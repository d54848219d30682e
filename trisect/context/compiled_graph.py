"""A compiled model that reports which devices run it, which node runs where, and whether that has changed."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from trisect.replanning import replan
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.timeline import Trace
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import Arrays

from .context_options import ACCELERATORS
from .device_selection import DeviceSelection

_MAX_LATENCIES = 1000
"""Runs whose median latency is recorded in the history: the most recent ones."""


@dataclass(frozen=True)
class Fallback:
    """Nodes that run on a device outside the first tier; true in a condition where there are any.

    Examples
    --------
    >>> bool(Fallback()), bool(Fallback({"Softmax_3": "cpu:ort"}))
    (False, True)
    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    """Node name -> id of the device that runs it."""

    def __bool__(self) -> bool:
        return bool(self.nodes)


@dataclass(frozen=True)
class DeviceChange:
    """A compiled graph moved to other devices."""

    before: tuple[str, ...]
    """Device ids."""
    after: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ContextPlan:
    """A model's plan and the device selection that it was made for."""

    plan: Plan
    selection: DeviceSelection
    notes: tuple[str, ...] = ()
    """Hints that planning had to override."""


class CompiledGraph:
    """A model that is ready to run on a context's devices; made by `Context.compile`.

    Use it as a context manager, or call `close`.

    Parameters
    ----------
    compiled : ContextPlan
    recompile : callable
        Discovers the devices again and plans for them; returns None where nothing has changed.
    check_plan : callable
        Raises for a plan that violates a requirement.
    record_latency : callable
        ``record_latency(plan, latency_s)``: called with the median latency of the runs of a plan.
    executor : str
        As for `Session`.
    """

    def __init__(
        self,
        compiled: ContextPlan,
        recompile: Callable[[Plan], ContextPlan | None],
        check_plan: Callable[[Plan], None],
        record_latency: Callable[[Plan, float], None],
        executor: str = "threads",
    ) -> None:
        self._compiled = compiled
        self._recompile = recompile
        self._check_plan = check_plan
        self._record_latency = record_latency
        self._executor = executor
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._latencies_s: deque[float] = deque(maxlen=_MAX_LATENCIES)
        self._listeners: list[Callable[[DeviceChange], None]] = []

    @property
    def plan(self) -> Plan:
        """The current plan."""
        return self._compiled.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """Every hint that was overridden, and the notes of the plan."""
        return (*self._compiled.selection.notes, *self._compiled.notes, *self.plan.notes)

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices that run the model, in the order of the segments."""
        return tuple(dict.fromkeys(segment.device for segment in self.plan.segments))

    def device_for(self, node: str) -> str:
        """Return the id of the device that runs a node.

        Raises
        ------
        InvalidInput
            When the model has no such node.
        """
        self.plan.explain(node)
        return self.plan.placement[node]

    @property
    def fallback(self) -> Fallback:
        """Nodes that run on a device outside the first tier."""
        preferred = {device.id for device in self._compiled.selection.tiers[0]}
        segments = [segment for segment in self.plan.segments if segment.device not in preferred]
        return Fallback({node: segment.device for segment in segments for node in segment.nodes})

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU runs any node."""
        kinds = {device.id: device.kind for device in self.plan.devices}
        return any(kinds[device] in ACCELERATORS for device in self.devices)

    @property
    def dispatched(self) -> tuple[str, ...]:
        """Ids of the devices that the last run used, from its trace; empty before the first run."""
        if self._session is None:
            return ()
        return tuple(dict.fromkeys(e.device for e in self._session.trace.events if e.kind == "compute"))

    @property
    def trace(self) -> Trace:
        """The measured timeline of the last run."""
        return self._open().trace

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the model once; see `Session.run`. A lost device is replaced, and the listeners are called."""
        session = self._open()
        outputs = session.run(feeds)
        self._latencies_s.append(session.trace.latency_s)
        return outputs

    def stream(self, items: Iterable[Arrays], window: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Run many items as a pipeline; see `Session.stream`."""
        return self._open().stream(items, window)

    def on_change(self, listener: Callable[[DeviceChange], None]) -> None:
        """Register a listener for changes of devices; it is called in the thread that detects the change."""
        self._listeners.append(listener)

    def refresh(self) -> bool:
        """Discover the devices again and move to better ones; return whether the devices changed."""
        compiled = self._recompile(self.plan)
        if compiled is None:
            return False
        self.close()
        return self._replace(compiled, "the available devices have changed")

    def close(self) -> None:
        """Free the devices' memory; a second call does nothing, and `run` opens the graph again."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()
        if self._latencies_s:
            self._record_latency(self.plan, statistics.median(self._latencies_s))
            self._latencies_s.clear()

    def __enter__(self) -> CompiledGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Session:
        with self._lock:
            if self._session is None:
                self._session = Session(self.plan, self._executor, replan=self._replan)
            return self._session

    def _replan(self, plan: Plan, without: Collection[str]) -> Plan:
        """Return a plan without the lost devices; raise where it would violate a requirement."""
        new_plan = replan(plan, without)
        self._check_plan(new_plan)
        self._latencies_s.clear()
        compiled = ContextPlan(new_plan, self._compiled.selection, self._compiled.notes)
        self._replace(compiled, f"lost device {', '.join(without)}")
        return new_plan

    def _replace(self, compiled: ContextPlan, reason: str) -> bool:
        before = self.devices
        self._compiled = compiled
        if self.devices == before:
            return False
        for listener in self._listeners:
            listener(DeviceChange(before, self.devices, reason))
        return True
