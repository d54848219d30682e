"""What a comparison found: plain data, the best first, and the one table that every format is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trisect.runtime.device import Device, Reality
from trisect.runtime.plans.timeline import Event, Schedule, Timeline, Trace
from trisect.scheduler.problem.rules import Objective

from .candidates import Candidate, used_devices
from .interleaved_measurement import Measured, Measurement, median_interval
from .machine_noise import Noise

_REALITIES: tuple[Reality, ...] = ("hardware", "software", "simulated", "published")


@dataclass(frozen=True)
class Cost:
    """A measured figure that is better the smaller it is, with the interval that it was told from."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Result:
    """One strategy, or one peer. What was not measured, or cannot be known of it, is None."""

    name: str
    kind: Literal["strategy", "peer"]
    also: tuple[str, ...]
    """Strategies that gave the same placement, and are not measured again."""
    same_as: str | None
    """Another result that this comes to here, whose figures these are."""
    devices: tuple[str, ...]
    reality: Reality
    """The least real of them."""
    latency_s: float | None
    """Median, measured, of one input at a time."""
    latency_low_s: float | None
    """Of the 95 % confidence interval of the median; None while there are too few turns to tell."""
    latency_high_s: float | None
    turns: int
    calls: int
    throughput_hz: float | None
    """Of a stream, measured: median over turns."""
    throughput_low_hz: float | None
    throughput_high_hz: float | None
    energy_j: float | None
    """Of one input, counted during its turns, what the idle machine draws included; None = not measured."""
    energy_low_j: float | None
    energy_high_j: float | None
    peak_bytes: int | None
    """Resident memory of its process, the most seen."""
    segments: int | None
    transfers: int | None
    transfer_bytes: int | None
    predicted: Schedule | None
    value: float | None
    """Of the objective, predicted."""
    bound: float | None
    gap: float | None
    """value / bound - 1."""
    max_abs: float | None
    """Largest difference from the unsplit model on ONNX Runtime's CPU, in any output."""
    max_rel: float | None
    ok: bool | None
    """Whether it is within the tolerance everywhere."""
    trace: Trace | None
    """Of a typical call, measured."""
    placement: Mapping[str, str] | None
    note: str
    failed: str | None
    best: bool = False

    def cost(self, objective: Objective) -> Cost | None:
        """What the objective makes small, measured; None where it was not."""
        match objective:
            case "latency":
                return _cost(self.latency_s, self.latency_low_s, self.latency_high_s)
            case "throughput":
                rates = (self.throughput_hz, self.throughput_high_hz, self.throughput_low_hz)
                return _cost(*(1 / rate_hz if rate_hz else None for rate_hz in rates))
            case "energy":
                return _cost(self.energy_j, self.energy_low_j, self.energy_high_j)
            case "memory":
                return _cost(self.peak_bytes, self.peak_bytes, self.peak_bytes)


@dataclass(frozen=True)
class Comparison:
    """All results, the best first."""

    model: str
    path: str
    model_sha256: str
    shapes: Mapping[str, int]
    objective: Objective
    threads: int | None
    seed: int
    devices: tuple[Device, ...]
    results: tuple[Result, ...]
    date: str
    """Of the first turn, ISO 8601, UTC."""
    rounds: int
    """Of this run; those before it are in the results too."""
    elapsed_s: float
    resumed: bool
    """Whether some turns are from an earlier run."""
    interrupted: bool
    noise: Noise | None
    """While measuring; None where all was known already."""
    versions: Mapping[str, str]

    @property
    def best(self) -> Result | None:
        """The first of them, of those that gave right answers."""
        return next((result for result in self.results if result.best), None)

    @property
    def ties(self) -> tuple[Result, ...]:
        """Those whose interval overlaps that of the best, which these figures do not tell from it."""
        best = self.best
        cost = best.cost(self.objective) if best is not None else None
        if cost is None or cost.high is None:
            return ()
        others = [r for r in self.results if not r.best and _is_sound(r) and r.same_as is None]
        lows = [(r, other.low) for r in others if (other := r.cost(self.objective)) is not None]
        return tuple(r for r, low in lows if low is not None and low <= cost.high)

    @property
    def is_measured(self) -> bool:
        """Whether results are sorted by what was measured of the objective, not by what was predicted of it."""
        return any(result.cost(self.objective) is not None for result in self.results)


def results_of(
    candidates: Sequence[Candidate], measurement: Measurement, devices: Sequence[Device], objective: Objective
) -> tuple[Result, ...]:
    """What was planned and measured, the best first, those that failed last."""
    by_label = {c.entrant.label: c.entrant.key for c in candidates if c.entrant is not None}
    found = []
    for candidate in candidates:
        same_as = candidate.offer.same_as if candidate.offer is not None else None
        key = candidate.entrant.key if candidate.entrant is not None else by_label.get(same_as or "")
        measured = measurement.entrants.get(key) if key is not None else None
        found.append(_result(candidate, measured or Measured(), devices))
    ranked = sorted(found, key=lambda result: _rank(result, objective))
    sound = [result for result in ranked if _is_sound(result)]
    # What a simulator takes says nothing of any hardware: it wins only where there is nothing else.
    first = next((r for r in sound if r.reality == "hardware"), sound[0] if sound else None)
    return tuple(replace(result, best=result is first) for result in ranked)


def _rank(result: Result, objective: Objective) -> tuple[bool, bool, float]:
    """Where the objective was not measured, behind those where it was, by its prediction."""
    cost = result.cost(objective)
    predicted = result.value if result.value is not None else float("inf")
    return result.failed is not None, cost is None, cost.value if cost is not None else predicted


def _cost(value: float | None, low: float | None, high: float | None) -> Cost | None:
    return Cost(value, low, high) if value is not None else None


def _is_sound(result: Result) -> bool:
    return result.latency_s is not None and result.failed is None and result.ok is not False


def _result(candidate: Candidate, measured: Measured, devices: Sequence[Device]) -> Result:
    plan, offer, interval = candidate.plan, candidate.offer, measured.interval_s
    moved = [t.size_bytes for t in plan.transfers if t.source >= 0 and t.target >= 0] if plan is not None else None
    used = used_devices(plan) if plan is not None else [d for d in devices if offer and d.id in offer.devices]
    latency_s = measured.latency_s
    rates = median_interval(measured.streams_hz) or (None, None)
    joules = median_interval(measured.energies_j) or (None, None)
    notes = [part for part in (offer.note if offer else "", measured.told) if part]
    return Result(
        name=candidate.name,
        kind="strategy" if offer is None else "peer",
        also=candidate.also,
        same_as=offer.same_as if offer is not None else None,
        devices=tuple(device.id for device in used),
        reality=max((d.reality for d in used), key=_REALITIES.index, default="hardware"),
        latency_s=latency_s,
        latency_low_s=interval[0] if interval is not None else None,
        latency_high_s=interval[1] if interval is not None else None,
        turns=len(measured.turns_s),
        calls=sum(map(len, measured.turns_s)),
        throughput_hz=measured.throughput_hz,
        throughput_low_hz=rates[0],
        throughput_high_hz=rates[1],
        energy_j=measured.energy_j,
        energy_low_j=joules[0],
        energy_high_j=joules[1],
        peak_bytes=measured.peak_bytes or None,
        segments=len(plan.segments) if plan is not None else None,
        transfers=len(moved) if moved is not None else None,
        transfer_bytes=sum(moved) if moved is not None else None,
        predicted=plan.predicted if plan is not None else None,
        value=plan.value if plan is not None else None,
        bound=plan.bound if plan is not None else None,
        gap=plan.gap if plan is not None else None,
        max_abs=measured.max_abs,
        max_rel=measured.max_rel,
        ok=measured.ok,
        trace=_trace(measured, used) if latency_s is not None else None,
        placement=plan.placement if plan is not None else None,
        note="; ".join(notes),
        failed=candidate.failed or measured.failed,
    )


def _trace(measured: Measured, used: Sequence[Device]) -> Trace:
    """Events from the first one's start; of a system that tells nothing, the whole call as one."""
    latency_s = measured.latency_s or 0.0
    events = list(measured.events)
    if not events:
        where = used[0].id if used else ""
        events = [Event("the whole model", "compute", where, 0.0, latency_s)]
    start_s = min(event.start_s for event in events)
    moved = [replace(e, start_s=e.start_s - start_s, end_s=e.end_s - start_s, item=0) for e in events]
    return Timeline.of(moved, source="measured")
