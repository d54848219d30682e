"""Runs plans that compete with each other, in the child process for what is unknown: first one by one, then in turns.

All plans stay loaded, and segments with the same file and device are loaded once. In turns, a slow minute of the
machine slows all plans alike.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from trisect.profiles.measuring.call_timing import repeat
from trisect.profiles.measuring.plan_trial import OtherLoad, PlanTiming, time_runs
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import TrisectError
from trisect.runtime.executors.threads import open_executor
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.runtime.sessions.session import Session

_WARM_UP, _RUNS_MIN, _RUNS_MAX = 2, 4, 100
_TURN_RUNS_MIN, _TURN_RUNS_MAX = 3, 60
_STREAM_ITEMS = 12
_UNLOAD_LIMIT_S = 20.0
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FirstRuns:
    """What the first runs of a plan showed."""

    timing: PlanTiming
    value_s: float
    """The objective: seconds of a call, or per item of a stream."""


@dataclass(frozen=True)
class Round:
    """One turn of each plan."""

    times_s: list[float | None]
    """The objective's seconds of each plan; None for one that failed."""
    is_disturbed: bool
    """Whether other processes used so much of the processor that the times may not be comparable."""


class ContenderRuns:
    """Plans that are loaded in the child process until `close`."""

    def __init__(self) -> None:
        self._are_loaded = False

    def first(self, plan: Plan, *, duration_s: float, enough_s: float, time_limit_s: float) -> FirstRuns:
        """Load a plan, and time it and its segments.

        Parameters
        ----------
        duration_s : float
            How long to repeat.
        enough_s : float
            A plan whose second run takes longer is not repeated.
        time_limit_s : float
            The child process is killed when it takes longer.

        Raises
        ------
        EngineFailed
            Naming segment and device; as `ChildProcessFailed` where the process crashed or exceeded a limit.
        """
        return self._called(_run_first, time_limit_s, Path(plan.folder), duration_s, enough_s)

    def in_turns(self, plans: Sequence[Plan], *, rounds: int, turn_s: float, time_limit_s: float) -> list[Round]:
        """Time plans in turns.

        Raises
        ------
        ChildProcessFailed
            When the process crashed or exceeded a limit.
        """
        return self._called(_run_in_turns, time_limit_s, [Path(plan.folder) for plan in plans], rounds, turn_s)

    def close(self) -> None:
        """Unload all plans."""
        if self._are_loaded:
            with suppress(ChildProcessFailed):
                self._called(_unload_all, _UNLOAD_LIMIT_S)
            self._are_loaded = False

    def _called(
        self,
        function: Callable[_Arguments, _Result],
        time_limit_s: float,
        *arguments: _Arguments.args,
        **keywords: _Arguments.kwargs,
    ) -> _Result:
        self._are_loaded = False  # unless the process survives
        try:
            result = call_isolated(function, time_limit_s, *arguments, **keywords)
        except ChildProcessFailed:
            raise
        except TrisectError:
            self._are_loaded = True
            raise
        self._are_loaded = True
        return result


_loaded: dict[Path, _LoadedContender] = {}
_modules: dict[tuple[str, str, str], Module] = {}
"""Of this (child) process: model, device id and hash of the segment's file -> the loaded segment."""


class _LoadedContender:
    """A plan in this process, loaded as a user's program loads it."""

    def __init__(self, folder: Path) -> None:
        self.plan = Plan.load(folder)
        self.feeds = plan_feeds(self.plan)
        opener = partial(open_executor, load_segment=partial(_load_once, self.plan.model_sha256))
        self.session = Session(self.plan, opener)

    def run_s(self) -> float:
        """Run once."""
        start_s = time.perf_counter()
        self.session.run(self.feeds)
        return time.perf_counter() - start_s

    def value_s(self, duration_s: float) -> float:
        """Time the objective for some seconds."""
        if self.plan.objective == "latency":
            return statistics.median(self.run_s() for _ in repeat(duration_s, _TURN_RUNS_MIN, _TURN_RUNS_MAX))
        start_s = time.perf_counter()
        for _ in self.session.stream([self.feeds] * _STREAM_ITEMS):
            pass
        return (time.perf_counter() - start_s) / _STREAM_ITEMS


def _load_once(model_sha256: str, path: Path, device: Device, options: LoadOptions) -> Module:
    """Load a segment, unless another plan of the model has loaded an equal one: they run in turns, never at once.

    The file names its weights by their places in the weights file, which are in the order of the segments before it:
    with the same names at the same places, the weights are the same.
    """
    key = model_sha256, device.id, hashlib.sha256(path.read_bytes()).hexdigest()
    if key not in _modules:
        _modules[key] = load(path, device, options)
    return _modules[key]


def _contender(folder: Path) -> _LoadedContender:
    if folder not in _loaded:
        _loaded[folder] = _LoadedContender(folder)
    return _loaded[folder]


def _run_first(folder: Path, duration_s: float, enough_s: float) -> FirstRuns:
    contender = _contender(folder)
    once_s = min(contender.run_s(), contender.run_s())
    runs = (1, 1) if once_s > enough_s else (_RUNS_MIN, _RUNS_MAX)
    for _ in repeat(duration_s / 2 if once_s <= enough_s else 0.0, 0, _WARM_UP):
        contender.run_s()
    load = OtherLoad()
    timing = time_runs(contender.session, contender.plan, contender.feeds, duration_s, *runs)
    if load.share_until_now()[1] and once_s <= enough_s:
        again = time_runs(contender.session, contender.plan, contender.feeds, duration_s, *runs)
        timing = min(timing, again, key=lambda one: one.latency_s)
    if contender.plan.objective == "latency":
        return FirstRuns(timing, timing.latency_s)
    return FirstRuns(timing, contender.value_s(duration_s))


def _run_in_turns(folders: list[Path], rounds: int, turn_s: float) -> list[Round]:
    results = []
    failed: set[Path] = set()
    for number in range(rounds):
        start = number % len(folders)
        row: dict[Path, float | None] = {}
        load = OtherLoad()
        for folder in (*folders[start:], *folders[:start]):
            row[folder] = None
            try:
                if folder not in failed:
                    _contender(folder).run_s()  # the engines' caches are those of another plan
                    row[folder] = _contender(folder).value_s(turn_s)
            except TrisectError:  # the plan is left out
                failed.add(folder)
        results.append(Round([row[folder] for folder in folders], load.share_until_now()[1]))
    return results


def _unload_all() -> bool:
    for contender in _loaded.values():
        contender.session.close()
    for module in _modules.values():
        module.close()
    _loaded.clear()
    _modules.clear()
    return True
