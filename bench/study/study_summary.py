"""What a study's rows say of each strategy: how far from the best, how often best, and whether that means anything.

A block is one instance; what a strategy got there with several seeds is averaged. Only blocks count in which at least
one strategy found something; a strategy that failed there is taken for infinitely bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, median

from .statistics import RankTest, bootstrap_interval, performance_profile, rank_test, ratio_to
from .study_rows import Row

TAUS = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 5.0, 10.0)
_EQUAL = 1e-9


@dataclass(frozen=True)
class StrategySummary:
    """One strategy over all blocks."""

    strategy: str
    runs: int
    failed: int
    mean_ratio: float | None
    """Mean over the blocks that it solved of value over the best that any strategy found; None where there is none."""
    interval: tuple[float, float] | None
    """Of that mean, 95 %, by bootstrap."""
    worst_ratio: float | None
    mean_gap: float | None
    """Mean gap to the best bound that anybody proved, of the blocks where that says something."""
    best: int
    """Blocks in which nobody found better."""
    mean_rank: float | None
    plan_time_s: float | None
    """Median; measured."""
    profile: tuple[float, ...]
    """Share of blocks solved within each of `TAUS` of the best."""


@dataclass(frozen=True)
class Summary:
    """All strategies of a study, best mean rank first."""

    blocks: int
    strategies: tuple[StrategySummary, ...]
    wins: Mapping[str, Mapping[str, float]]
    """Strategy -> other -> share of the blocks in which it is the better one."""
    test: RankTest | None
    unusable: int
    """Instances whose problem could not be made."""
    cut_short: int
    """Runs that a time limit ended: a quicker machine may find better there."""
    taus: tuple[float, ...] = TAUS


def summarise(rows: Sequence[Row]) -> Summary:
    """Sum a study up."""
    names = list(dict.fromkeys(row.strategy for row in rows))
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.status != "no problem":
            found.setdefault((row.workload, row.instance), {}).setdefault(row.strategy, []).append(row)
    blocks = [block for block in found.values() if any(row.status == "ok" for rs in block.values() for row in rs)]
    values = {name: [_value(block.get(name, ())) for block in blocks] for name in names}
    bests = [min(values[name][i] for name in names) for i in range(len(blocks))]
    ratios = {name: [_snap(ratio_to(best, v)) for best, v in zip(bests, values[name], strict=True)] for name in names}
    bounds = [
        min(best, max(row.bound for rs in block.values() for row in rs if row.status == "ok"))
        for best, block in zip(bests, blocks, strict=True)
    ]
    test = rank_test(ratios)
    strategies = [
        _strategy(name, [row for row in rows if row.strategy == name], values[name], ratios[name], bounds, test)
        for name in names
    ]
    strategies.sort(key=lambda s: (s.mean_rank or 0.0, s.mean_ratio or inf, s.strategy))
    wins = {
        a: {b: _share(x < y for x, y in zip(ratios[a], ratios[b], strict=True)) for b in names if b != a} for a in names
    }
    unusable = len({(row.workload, row.instance) for row in rows if row.status == "no problem"})
    cut_short = sum(row.ended == "time limit" for row in rows)
    return Summary(len(blocks), tuple(strategies), wins, test, unusable, cut_short)


def _value(rows: Sequence[Row]) -> float:
    found = [row.value for row in rows if row.value is not None]
    return fmean(found) if found and len(found) == len(rows) else inf


def _snap(ratio: float) -> float:
    """Equal but for rounding is equal."""
    return 1.0 if ratio <= 1 + _EQUAL else ratio


def _strategy(
    name: str,
    rows: Sequence[Row],
    values: Sequence[float],
    ratios: Sequence[float],
    bounds: Sequence[float],
    test: RankTest | None,
) -> StrategySummary:
    solved = [ratio for ratio in ratios if ratio < inf]
    gaps = [value / bound - 1 for value, bound in zip(values, bounds, strict=True) if value < inf and bound > 0]
    times = [row.plan_time_s for row in rows if row.status == "ok"]
    return StrategySummary(
        strategy=name,
        runs=sum(row.status != "no problem" for row in rows),
        failed=sum(row.status == "failed" for row in rows),
        mean_ratio=fmean(solved) if solved else None,
        interval=bootstrap_interval(solved) if solved else None,
        worst_ratio=max(solved) if solved else None,
        mean_gap=fmean(gaps) if gaps else None,
        best=sum(ratio == 1.0 for ratio in ratios),
        mean_rank=test.mean_ranks[name] if test is not None else None,
        plan_time_s=median(times) if times else None,
        profile=tuple(performance_profile(ratios, TAUS)),
    )


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found) if found else 0.0
