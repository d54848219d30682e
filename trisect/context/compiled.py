"""A compiled model that answers for itself: which devices run it, which node is where, and whether that has changed."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.timeline import Trace
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import Arrays

from ..replanning import replan
from .choosing import Choice


@dataclass(frozen=True)
class Fallback:
    """Whether work fell back to a device that is not among the most wanted; true in a condition where it did.

    Examples
    --------
    >>> bool(Fallback()), bool(Fallback({"Softmax_3": "cpu:ort"}))
    (False, True)
    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    """Node name -> the device that runs it instead."""

    def __bool__(self) -> bool:
        return bool(self.nodes)


@dataclass(frozen=True)
class Change:
    """Other devices have taken over."""

    before: tuple[str, ...]
    """Device ids."""
    after: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Compiled:
    """What the context made of a model."""

    plan: Plan
    choice: Choice
    notes: tuple[str, ...] = ()
    """What was done against the hints to run it at all."""


class CompiledGraph:
    """A model ready to run, with the context's answers about it; made by `Context.compile`.

    Use it as a context manager, or call `close`.

    Parameters
    ----------
    compiled : Compiled
    compile_again : callable
        Looks which devices there are now and compiles for them; None where nothing has changed.
    check : callable
        Refuses a plan that breaks what was required.
    remember : callable
        Told of the median time of runs: ``remember(plan, latency_s)``.
    executor : str
        As for `Session`.
    """

    def __init__(
        self,
        compiled: Compiled,
        compile_again: Callable[[Plan], Compiled | None],
        check: Callable[[Plan], None],
        remember: Callable[[Plan, float], None],
        executor: str = "threads",
    ) -> None:
        self._compiled = compiled
        self._compile_again = compile_again
        self._check = check
        self._remember = remember
        self._executor = executor
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._times_s: list[float] = []
        self._listeners: list[Callable[[Change], None]] = []

    @property
    def plan(self) -> Plan:
        """The plan that is carried out now."""
        return self._compiled.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """Every hint that was overridden, and what was done against one."""
        return (*self._compiled.choice.notes, *self._compiled.notes, *self.plan.notes)

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices that run it, in the order of the segments."""
        return tuple(dict.fromkeys(segment.device for segment in self.plan.segments))

    def device_for(self, node: str) -> str:
        """Which device runs a node.

        Raises
        ------
        InvalidInput
            When the model has no such node.
        """
        self.plan.explain(node)
        return self.plan.placement[node]

    @property
    def fallback(self) -> Fallback:
        """Nodes that a device runs which is not among the most wanted."""
        wanted = {device.id for device in self._compiled.choice.ranks[0]}
        return Fallback(
            {node: part.device for part in self.plan.segments if part.device not in wanted for node in part.nodes}
        )

    @property
    def accelerated(self) -> bool:
        """Whether a GPU or an NPU runs any of it."""
        kinds = {device.id: device.kind for device in self.plan.devices}
        return any(kinds[device] != "cpu" for device in self.devices)

    @property
    def dispatched(self) -> tuple[str, ...]:
        """Devices that the last run was seen on; empty before the first."""
        if self._session is None:
            return ()
        return tuple(dict.fromkeys(e.device for e in self._session.trace.events if e.kind == "compute"))

    @property
    def trace(self) -> Trace:
        """Of the last run, measured."""
        return self._open().trace

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Compute once; see `Session.run`. A device that is lost meanwhile is replaced, and listeners are told."""
        session = self._open()
        outputs = session.run(feeds)
        self._times_s.append(session.trace.latency_s)
        return outputs

    def stream(self, items: Iterable[Arrays], window: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Compute many as a pipeline; see `Session.stream`."""
        return self._open().stream(items, window)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Be told when other devices take over, in the thread that found out."""
        self._listeners.append(listener)

    def refresh(self) -> bool:
        """Look again which devices there are, and move to better ones that came; True where the devices changed."""
        found = self._compile_again(self.plan)
        if found is None:
            return False
        self.close()
        return self._become(found, "the devices that there are have changed")

    def close(self) -> None:
        """Give the devices' memory back; a second call does nothing, a run opens it again."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()
        if self._times_s:
            self._remember(self.plan, statistics.median(self._times_s))
            self._times_s = []

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
        """Another plan for a session that lost devices; one that breaks a requirement is an error, not a plan."""
        made = replan(plan, without)
        self._check(made)
        self._times_s = []
        self._become(Compiled(made, self._compiled.choice, self._compiled.notes), f"{', '.join(without)} is lost")
        return made

    def _become(self, compiled: Compiled, reason: str) -> bool:
        before = self.devices
        self._compiled = compiled
        if self.devices != before:
            for listener in self._listeners:
                listener(Change(before, self.devices, reason))
        return self.devices != before
