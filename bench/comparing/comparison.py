"""The results of a comparison as plain data, the best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trisect.runtime.device import Device, Reality
from trisect.runtime.plans.timeline import Event, Schedule, Timeline, Trace
from trisect.scheduler.problem.rules import Objective

from .candidates import Candidate, used_devices
from .interleaved_measurement import ContenderMeasurements, InterleavedMeasurement, median_interval
from .machine_noise import MachineNoise

_REALITIES: tuple[Reality, ...] = ("hardware", "software", "simulated", "published")


@dataclass(frozen=True)
class MeasuredCost:
    """A measured value to minimise, with its confidence interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ComparisonResult:
    """One strategy, or one peer. What was not measured, or does not apply, is None."""

    name: str
    kind: Literal["strategy", "peer"]
    also: tuple[str, ...]
    """Strategies that returned the same placement."""
    same_as: str | None
    """An equivalent result, whose figures these are."""
    devices: tuple[str, ...]
    reality: Reality
    """Of the least real of them."""
    latency_s: float | None
    """Median, measured, of one input at a time."""
    latency_low_s: float | None
    """Of the 95 % confidence interval of the median; None with too few turns."""
    latency_high_s: float | None
    turns: int
    calls: int
    throughput_hz: float | None
    """Of a stream, measured: median over turns."""
    throughput_low_hz: float | None
    throughput_high_hz: float | None
    energy_j: float | None
    """Of one input, measured during its turns, idle power included."""
    energy_low_j: float | None
    energy_high_j: float | None
    peak_bytes: int | None
    """Peak resident memory of its process."""
    segments: int | None
    transfers: int | None
    transfer_bytes: int | None
    predicted: Schedule | None
    value: float | None
    """Of the objective, predicted."""
    value_low: float | None
    """Of the interval that contains the measured value with 90 % probability; None where that is not known."""
    value_high: float | None
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

    def cost(self, objective: Objective) -> MeasuredCost | None:
        """Return the measured value that the objective minimises; None where it was not measured."""
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
    results: tuple[ComparisonResult, ...]
    date: str
    """Of the first turn, ISO 8601, UTC."""
    rounds: int
    """Of this run; the results also include those of earlier runs."""
    elapsed_s: float
    resumed: bool
    """Whether some turns are from an earlier run."""
    interrupted: bool
    noise: MachineNoise | None
    """While measuring; None where everything was cached."""
    versions: Mapping[str, str]

    @property
    def best(self) -> ComparisonResult | None:
        """The first result with correct outputs."""
        return next((result for result in self.results if result.best), None)

    @property
    def ties(self) -> tuple[ComparisonResult, ...]:
        """Results that do not differ significantly from the best: their intervals overlap."""
        best = self.best
        cost = best.cost(self.objective) if best is not None else None
        if cost is None or cost.high is None:
            return ()
        others = [r for r in self.results if not r.best and _is_correct(r) and r.same_as is None]
        lows = [(r, other.low) for r in others if (other := r.cost(self.objective)) is not None]
        return tuple(r for r, low in lows if low is not None and low <= cost.high)

    @property
    def is_measured(self) -> bool:
        """Whether results are sorted by measured values of the objective, not by predicted ones."""
        return any(result.cost(self.objective) is not None for result in self.results)


def results_of(
    candidates: Sequence[Candidate],
    measurement: InterleavedMeasurement,
    devices: Sequence[Device],
    objective: Objective,
) -> tuple[ComparisonResult, ...]:
    """Join plans and measurements, the best first, those that failed last."""
    key_of = {c.contender.label: c.contender.key for c in candidates if c.contender is not None}
    results = []
    for candidate in candidates:
        same_as = candidate.peer.same_as if candidate.peer is not None else None
        key = candidate.contender.key if candidate.contender is not None else key_of.get(same_as or "")
        measured = measurement.contenders.get(key) if key is not None else None
        results.append(_result(candidate, measured or ContenderMeasurements(), devices))
    ranked = sorted(results, key=lambda result: _rank(result, objective))
    correct = [result for result in ranked if _is_correct(result)]
    # A simulator's time says nothing about hardware: it is best only where there is nothing else.
    first = next((r for r in correct if r.reality == "hardware"), correct[0] if correct else None)
    return tuple(replace(result, best=result is first) for result in ranked)


def _rank(result: ComparisonResult, objective: Objective) -> tuple[bool, bool, float]:
    """Return the sort key; results whose objective was only predicted follow those where it was measured."""
    cost = result.cost(objective)
    predicted = result.value if result.value is not None else float("inf")
    return result.failed is not None, cost is None, cost.value if cost is not None else predicted


def _cost(value: float | None, low: float | None, high: float | None) -> MeasuredCost | None:
    return MeasuredCost(value, low, high) if value is not None else None


def _is_correct(result: ComparisonResult) -> bool:
    return result.latency_s is not None and result.failed is None and result.ok is not False


def _result(candidate: Candidate, measured: ContenderMeasurements, devices: Sequence[Device]) -> ComparisonResult:
    plan, peer, interval = candidate.plan, candidate.peer, measured.interval_s
    value_interval = plan.interval if plan is not None else None
    moved = [t.size_bytes for t in plan.transfers if t.source >= 0 and t.target >= 0] if plan is not None else None
    used = used_devices(plan) if plan is not None else [d for d in devices if peer and d.id in peer.devices]
    latency_s = measured.latency_s
    rates = median_interval(measured.streams_hz) or (None, None)
    energies_j = median_interval(measured.energies_j) or (None, None)
    notes = [part for part in (peer.note if peer else "", measured.description) if part]
    return ComparisonResult(
        name=candidate.name,
        kind="strategy" if peer is None else "peer",
        also=candidate.also,
        same_as=peer.same_as if peer is not None else None,
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
        energy_low_j=energies_j[0],
        energy_high_j=energies_j[1],
        peak_bytes=measured.peak_bytes or None,
        segments=len(plan.segments) if plan is not None else None,
        transfers=len(moved) if moved is not None else None,
        transfer_bytes=sum(moved) if moved is not None else None,
        predicted=plan.predicted if plan is not None else None,
        value=plan.value if plan is not None else None,
        value_low=value_interval[0] if value_interval is not None else None,
        value_high=value_interval[1] if value_interval is not None else None,
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


def _trace(measured: ContenderMeasurements, used: Sequence[Device]) -> Trace:
    """Return the events, from the start of the first; the whole call as one where the system records none."""
    latency_s = measured.latency_s or 0.0
    events = list(measured.events)
    if not events:
        events = [Event("the whole model", "compute", used[0].id if used else "", 0.0, latency_s)]
    start_s = min(event.start_s for event in events)
    shifted = [replace(e, start_s=e.start_s - start_s, end_s=e.end_s - start_s, item=0) for e in events]
    return Timeline.of(shifted, source="measured")
