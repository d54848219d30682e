"""Contenders measured in turns, A B C A B C, until the intervals of their medians are narrow or the time is up.

Calls within a turn resemble each other more than those of different turns, so a turn counts as one observation: its
median. The interval of a contender's median is that of the order statistics of these, which assumes nothing of how they
are distributed and needs six of them for 95 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed
from trisect.runtime.plans.timeline import Event
from trisect.runtime.progress import Progress
from trisect.scheduler.problem.rules import Objective

from .contender_process import Contending
from .machine_noise import Noise, NoiseMeter

CONFIDENCE = 0.95
NARROW = 0.02
"""Half an interval over its median, from which on more turns are not worth their time."""
BEATEN = 2.0
"""A contender that is surely so many times slower than the best takes no further turns."""
_TURN_S = 0.1
_MOST_CALLS = 50
_PAUSE_S = 0.02
"""Until the last contender's threads have stopped spinning."""


@dataclass(frozen=True)
class Entrant:
    """Who takes turns."""

    key: str
    """Same key, same thing: under it earlier turns are found again."""
    label: str
    system: str
    """File name in `trisect.bench.contenders`."""
    model: Path
    """Model file, or plan folder."""
    devices: tuple[Device, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlaps: int = 1
    """How many items can be worked on at once: 1 = a stream is no quicker than calls."""


@dataclass(frozen=True)
class Measured:
    """What is known of an entrant."""

    turns_s: tuple[tuple[float, ...], ...] = ()
    """Calls of each turn."""
    streams_hz: tuple[float, ...] = ()
    """One for each turn."""
    events: tuple[Event, ...] = ()
    """Of the call of the last turn nearest to its median."""
    peak_bytes: int = 0
    told: str = ""
    max_abs: float | None = None
    """Largest difference of any output from the reference; None where there is no reference."""
    max_rel: float | None = None
    ok: bool | None = None
    energies_j: tuple[float, ...] = ()
    """Of one call, one for each turn whose energy was told: all that its devices drew, the idle machine's included."""
    failed: str | None = None

    @property
    def latency_s(self) -> float | None:
        """Median over turns of their medians."""
        return statistics.median(self._medians_s) if self.turns_s else None

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """Of the median; None while there are too few turns to tell."""
        return median_interval(self._medians_s)

    @property
    def throughput_hz(self) -> float | None:
        """Median over turns."""
        return statistics.median(self.streams_hz) if self.streams_hz else None

    @property
    def energy_j(self) -> float | None:
        """Median over turns; None = not measured."""
        return statistics.median(self.energies_j) if self.energies_j else None

    def costs(self, objective: Objective) -> list[float]:
        """What is to be small, one figure for each turn; empty where turns do not tell."""
        match objective:
            case "latency":
                return self._medians_s
            case "throughput":
                return [1 / rate_hz for rate_hz in self.streams_hz]
            case "energy":
                return list(self.energies_j)
            case "memory":  # the most that a process ever held: no turn is another observation of it
                return []

    def is_narrow(self, objective: Objective = "latency") -> bool:
        """Whether more turns are not worth their time."""
        costs = self.costs(objective)
        interval = median_interval(costs)
        return interval is not None and interval[1] - interval[0] <= 2 * NARROW * statistics.median(costs)

    @property
    def _medians_s(self) -> list[float]:
        return [statistics.median(turn) for turn in self.turns_s]


@dataclass(frozen=True)
class Measurement:
    """All entrants, by key, and how it went."""

    entrants: Mapping[str, Measured]
    rounds: int
    """In this run."""
    elapsed_s: float
    noise: Noise | None
    """None where nothing had to be measured any more."""
    interrupted: bool


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """An interval that holds the true median with at least this confidence, whatever the distribution.

    Examples
    --------
    >>> median_interval([3, 1, 2, 5, 4, 6])
    (1, 6)
    >>> median_interval([3, 1, 2]) is None
    True
    """
    ordered, n = sorted(values), len(values)
    outside, found = 0.0, None
    for k in range(n // 2):
        outside += comb(n, k) / 2**n
        if 1 - 2 * outside < confidence:
            break
        found = (ordered[k], ordered[n - 1 - k])
    return found


def measure(
    entrants: Sequence[Entrant],
    *,
    objective: Objective = "latency",
    feeds: Path,
    reference: Path | None,
    shapes: Mapping[str, int],
    threads: int | None,
    budget_s: float,
    known: Mapping[str, Measured],
    keep: Callable[[Mapping[str, Measured]], None],
    progress: Progress,
) -> Measurement:
    """Let entrants take turns.

    Parameters
    ----------
    entrants : sequence of Entrant
    objective : str
        Whose intervals are to be narrow; of those that turns do not tell, the latency's.
    feeds : path
        What all of them compute with; see `trisect.bench.comparing.output_comparison`.
    reference : path, optional
        The answers to compare with.
    shapes : mapping of str to int
    threads : int, optional
    budget_s : float
        For turns, once all are loaded; no round is begun that would not end by then, but the first always is.
    known : mapping of str to Measured
        Of an earlier run; turns are added to these.
    keep : callable
        Gets all that is known after every round.
    progress : callable
        Told the steps done or the seconds gone, how many there are, and who is running.

    Notes
    -----
    Ctrl-C ends it, and what is known until then is returned.
    """
    found = {entrant.key: replace(known.get(entrant.key, Measured()), failed=None) for entrant in entrants}
    if not _undecided(found, objective):
        return Measurement(found, 0, 0.0, None, False)
    begun, rounds, interrupted = perf_counter(), 0, False
    noise = NoiseMeter()

    with ExitStack() as stack:
        workers: dict[str, Contending] = {}
        calls: dict[str, float] = {}
        try:
            for number, entrant in enumerate(entrants):
                progress(number, len(entrants), f"loading: {entrant.label}")
                worker = stack.enter_context(Contending(entrant.system, entrant.label))
                try:
                    found[entrant.key], calls[entrant.key] = _load(
                        worker, entrant, found[entrant.key], feeds, reference, shapes, threads
                    )
                    workers[entrant.key] = worker
                except EngineFailed as error:
                    found[entrant.key] = replace(found[entrant.key], failed=error.reason)
            by_key = {entrant.key: entrant for entrant in entrants}
            begun, longest_s = perf_counter(), 0.0
            while active := [key for key in _undecided(found, objective) if key in workers]:
                round_begun = perf_counter()
                if rounds and round_begun - begun + longest_s > budget_s:
                    break
                for key in active:
                    gone_s = min(perf_counter() - begun, budget_s)
                    progress(round(gone_s), max(1, round(budget_s)), f"round {rounds + 1}: {by_key[key].label}")
                    sleep(_PAUSE_S)
                    try:
                        found[key] = _take_turn(workers[key], by_key[key], found[key], calls[key])
                    except EngineFailed as error:
                        found[key] = replace(found[key], failed=error.reason)
                        del workers[key]
                rounds += 1
                longest_s = max(longest_s, perf_counter() - round_begun)
                noise.tick(worker.pid for worker in workers.values())
                keep(found)
        except KeyboardInterrupt:
            interrupted = True
        noise.tick(worker.pid for worker in workers.values())
    keep(found)
    return Measurement(found, rounds, perf_counter() - begun, noise.read(), interrupted)


def _undecided(found: Mapping[str, Measured], objective: Objective) -> list[str]:
    """Whoever has to go on: all that may be best or nearly so, until every one of them is narrow."""
    sound = {key: measured for key, measured in found.items() if measured.failed is None}
    # Joules of some beside seconds of others would compare nothing.
    is_told = all(measured.costs(objective) for measured in sound.values() if measured.turns_s)
    judged: Objective = objective if is_told else "latency"
    intervals = {key: median_interval(measured.costs(judged)) for key, measured in sound.items()}
    limit = BEATEN * min((interval[1] for interval in intervals.values() if interval), default=float("inf"))
    near = [key for key, interval in intervals.items() if interval is None or interval[0] <= limit]
    return near if not all(sound[key].is_narrow(judged) for key in near) else []


def _load(
    worker: Contending,
    entrant: Entrant,
    before: Measured,
    feeds: Path,
    reference: Path | None,
    shapes: Mapping[str, int],
    threads: int | None,
) -> tuple[Measured, float]:
    told, call_s = worker.load(
        entrant.model,
        feeds,
        threads=threads,
        shapes=dict(shapes),
        settings=dict(entrant.settings),
        counted=entrant.devices,
    )
    found = replace(before, told=told)
    if reference is not None:
        found = replace(found, **worker.ask({"do": "compare", "with": str(reference)}))
    return found, call_s


def _take_turn(worker: Contending, entrant: Entrant, before: Measured, call_s: float) -> Measured:
    calls = max(1, min(_MOST_CALLS, round(_TURN_S / max(call_s, 1e-6))))
    turn = worker.turn(calls, 0 if entrant.overlaps == 1 else max(calls, 2 * (entrant.overlaps + 1)))
    return replace(
        before,
        turns_s=(*before.turns_s, turn.calls_s),
        streams_hz=(*before.streams_hz, turn.stream_hz),
        events=turn.events,
        peak_bytes=max(before.peak_bytes, turn.peak_bytes),
        energies_j=before.energies_j if turn.energy_j is None else (*before.energies_j, turn.energy_j),
    )
