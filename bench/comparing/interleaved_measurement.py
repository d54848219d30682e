"""Interleaved measurement of contenders, A B C A B C, until confidence intervals are narrow or the time is up.

Calls within a turn resemble each other more than those of different turns, so a turn counts as one observation: its
median. The confidence interval of a contender's median is that of the order statistics of these, which assumes no
distribution and needs six of them for 95 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from math import comb
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.runtime.plans.timeline import Event
from trisect.runtime.progress import Progress
from trisect.scheduler.problem.rules import Objective

from .contender_process import ContenderProcess
from .machine_noise import MachineNoise, NoiseMeter

CONFIDENCE = 0.95
NARROW = 0.02
"""Half an interval over its median, below which further turns are not worth their time."""
BEATEN = 2.0
"""A contender that is surely this many times slower than the best takes no further turns."""
_TURN_S = 0.1
_CALLS_MAX = 50
_PAUSE_S = 0.02
"""Until the previous contender's threads have stopped spinning."""


@dataclass(frozen=True)
class ContenderConfig:
    """A contender to measure."""

    key: str
    """Identifies it in the turn cache."""
    label: str
    system: str
    """File name in `trisect.bench.contenders`."""
    model: Path
    """Model file, or plan folder."""
    devices: tuple[Device, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlaps: int = 1
    """Items in flight at once; 1: a stream is no faster than calls."""


@dataclass(frozen=True)
class ContenderMeasurements:
    """All turns of one contender."""

    turns_s: tuple[tuple[float, ...], ...] = ()
    """Calls of each turn."""
    streams_hz: tuple[float, ...] = ()
    """One for each turn."""
    events: tuple[Event, ...] = ()
    """Of the call of the last turn nearest to its median."""
    peak_bytes: int = 0
    description: str = ""
    """How the contender runs the model."""
    max_abs: float | None = None
    """Largest difference of any output from the reference; None where there is no reference."""
    max_rel: float | None = None
    ok: bool | None = None
    energies_j: tuple[float, ...] = ()
    """Of one call, for each turn whose energy was measured: all that its devices drew, idle power included."""
    failed: str | None = None

    @property
    def latency_s(self) -> float | None:
        """Median over turns of their medians."""
        return statistics.median(self._medians_s) if self.turns_s else None

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """Confidence interval of the median; None with too few turns."""
        return median_interval(self._medians_s)

    @property
    def throughput_hz(self) -> float | None:
        """Median over turns."""
        return statistics.median(self.streams_hz) if self.streams_hz else None

    @property
    def energy_j(self) -> float | None:
        """Median over turns; None where not measured."""
        return statistics.median(self.energies_j) if self.energies_j else None

    def costs(self, objective: Objective) -> list[float]:
        """Return the value to minimise, for each turn; empty where turns do not measure it."""
        match objective:
            case "latency":
                return self._medians_s
            case "throughput":
                return [1 / rate_hz for rate_hz in self.streams_hz]
            case "energy":
                return list(self.energies_j)
            case "memory":  # the peak of a process: no turn is another observation of it
                return []

    def is_narrow(self, objective: Objective = "latency") -> bool:
        """Whether the confidence interval is narrow enough."""
        costs = self.costs(objective)
        interval = median_interval(costs)
        return interval is not None and interval[1] - interval[0] <= 2 * NARROW * statistics.median(costs)

    @property
    def _medians_s(self) -> list[float]:
        return [statistics.median(turn) for turn in self.turns_s]


@dataclass(frozen=True)
class InterleavedMeasurement:
    """The measurements of all contenders, by key."""

    contenders: Mapping[str, ContenderMeasurements]
    rounds: int
    """In this run."""
    elapsed_s: float
    noise: MachineNoise | None
    """None where nothing had to be measured."""
    interrupted: bool


@dataclass(frozen=True)
class MeasurementOptions:
    """How contenders are measured."""

    objective: Objective
    """Whose intervals should become narrow; the latency's where turns do not measure it."""
    feeds: Path
    """Inputs, written by `trisect.bench.comparing.output_comparison`."""
    reference: Path | None
    """Outputs to compare with."""
    shapes: Mapping[str, int]
    threads: int | None
    budget_s: float
    """For turns, once all are loaded. No round begins that would exceed it, except the first."""


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return an interval that covers the true median with at least 95 % confidence, for any distribution.

    Examples
    --------
    >>> median_interval([3, 1, 2, 5, 4, 6])
    (1, 6)
    >>> median_interval([3, 1, 2]) is None
    True
    """
    ordered, n = sorted(values), len(values)
    tail, interval = 0.0, None
    for k in range(n // 2):
        tail += comb(n, k) / 2**n
        if 1 - 2 * tail < CONFIDENCE:
            break
        interval = (ordered[k], ordered[n - 1 - k])
    return interval


def measure(
    contenders: Sequence[ContenderConfig],
    options: MeasurementOptions,
    *,
    known: Mapping[str, ContenderMeasurements],
    save: Callable[[Mapping[str, ContenderMeasurements]], None],
    progress: Progress,
) -> InterleavedMeasurement:
    """Measure contenders in turns.

    Parameters
    ----------
    contenders : sequence of ContenderConfig
    options : MeasurementOptions
    known : mapping of str to ContenderMeasurements
        Of an earlier run; turns are added to these.
    save : callable
        Called with all measurements after every round.
    progress : callable
        Called with the steps done (or seconds elapsed), their total, and what is running.

    Notes
    -----
    Ctrl-C ends it; the measurements until then are returned.
    """
    measured = {c.key: replace(known.get(c.key, ContenderMeasurements()), failed=None) for c in contenders}
    if not _undecided(measured, options.objective):
        return InterleavedMeasurement(measured, 0, 0.0, None, False)
    start_s, rounds, interrupted = perf_counter(), 0, False
    budget_s = options.budget_s
    noise = NoiseMeter()

    with ExitStack() as stack:
        processes: dict[str, ContenderProcess] = {}
        calls_s: dict[str, float] = {}
        try:
            for number, contender in enumerate(contenders):
                key = contender.key
                progress(number, len(contenders), f"loading: {contender.label}")
                try:
                    process = stack.enter_context(ContenderProcess(contender.system, contender.label))
                    measured[key], calls_s[key] = _load(process, contender, measured[key], options)
                    processes[key] = process
                except ChildProcessFailed as error:
                    measured[key] = replace(measured[key], failed=error.reason)
            by_key = {contender.key: contender for contender in contenders}
            start_s, longest_s = perf_counter(), 0.0
            while active := [key for key in _undecided(measured, options.objective) if key in processes]:
                round_start_s = perf_counter()
                if rounds and round_start_s - start_s + longest_s > budget_s:
                    break
                for key in active:
                    elapsed_s = min(perf_counter() - start_s, budget_s)
                    progress(round(elapsed_s), max(1, round(budget_s)), f"round {rounds + 1}: {by_key[key].label}")
                    sleep(_PAUSE_S)
                    try:
                        measured[key] = _take_turn(processes[key], by_key[key], measured[key], calls_s[key])
                    except ChildProcessFailed as error:
                        measured[key] = replace(measured[key], failed=error.reason)
                        del processes[key]
                rounds += 1
                longest_s = max(longest_s, perf_counter() - round_start_s)
                noise.tick(process.pid for process in processes.values())
                save(measured)
        except KeyboardInterrupt:
            interrupted = True
        noise.tick(process.pid for process in processes.values())
    save(measured)
    return InterleavedMeasurement(measured, rounds, perf_counter() - start_s, noise.read(), interrupted)


def _undecided(measured: Mapping[str, ContenderMeasurements], objective: Objective) -> list[str]:
    """Return the keys of all that may be best or nearly so, until every one of them has a narrow interval."""
    working = {key: one for key, one in measured.items() if one.failed is None}
    # Joules of some beside seconds of others would compare nothing.
    is_measured = all(one.costs(objective) for one in working.values() if one.turns_s)
    compared: Objective = objective if is_measured else "latency"
    intervals = {key: median_interval(one.costs(compared)) for key, one in working.items()}
    limit = BEATEN * min((interval[1] for interval in intervals.values() if interval), default=float("inf"))
    near = [key for key, interval in intervals.items() if interval is None or interval[0] <= limit]
    return near if not all(working[key].is_narrow(compared) for key in near) else []


def _load(
    process: ContenderProcess, contender: ContenderConfig, before: ContenderMeasurements, options: MeasurementOptions
) -> tuple[ContenderMeasurements, float]:
    description, call_s = process.load(
        contender.model,
        options.feeds,
        threads=options.threads,
        shapes=options.shapes,
        settings=contender.settings,
        metered=contender.devices,
    )
    measured = replace(before, description=description)
    if options.reference is not None:
        measured = replace(measured, **asdict(process.compare_outputs(options.reference)))
    return measured, call_s


def _take_turn(
    process: ContenderProcess, contender: ContenderConfig, before: ContenderMeasurements, call_s: float
) -> ContenderMeasurements:
    calls = max(1, min(_CALLS_MAX, round(_TURN_S / max(call_s, 1e-6))))
    items = 0 if contender.overlaps == 1 else max(calls, 2 * (contender.overlaps + 1))
    turn = process.take_turn(calls, items)
    return replace(
        before,
        turns_s=(*before.turns_s, turn.calls_s),
        streams_hz=(*before.streams_hz, turn.stream_hz),
        events=turn.events,
        peak_bytes=max(before.peak_bytes, turn.peak_bytes),
        energies_j=before.energies_j if turn.energy_j is None else (*before.energies_j, turn.energy_j),
    )
