"""Summary of a study by strategy: ratios to the best, wins, ranks and their significance.

A block is one instance; a strategy's values of several seeds are averaged. Only blocks that at least one strategy
solved count; the value of one that failed there is infinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, median

from .statistics import RankTest, bootstrap_interval, performance_profile, rank_test, ratio_to
from .study_rows import StudyRow

TAUS = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 5.0, 10.0)
_EQUAL = 1e-9


@dataclass(frozen=True)
class StrategySummary:
    """One strategy over all blocks."""

    strategy: str
    runs: int
    failed: int
    mean_ratio: float | None
    """Mean over its solved blocks of its value over the best value of any strategy; None if it solved none."""
    interval: tuple[float, float] | None
    """95 % bootstrap confidence interval of that mean."""
    worst_ratio: float | None
    mean_gap: float | None
    """Mean gap to the best proven bound, over blocks whose bound is above 0."""
    best: int
    """Blocks in which no strategy is better."""
    mean_rank: float | None
    plan_time_s: float | None
    """Median; measured."""
    profile: tuple[float, ...]
    """Share of blocks solved within each of `TAUS` of the best."""


@dataclass(frozen=True)
class StudySummary:
    """All strategies of a study, best mean rank first."""

    blocks: int
    strategies: tuple[StrategySummary, ...]
    wins: Mapping[str, Mapping[str, float]]
    """Strategy -> other -> share of the blocks in which it is the better one."""
    test: RankTest | None
    unusable: int
    """Instances whose problem could not be built."""
    cut_short: int
    """Runs that a time limit cut short: a faster machine may find better."""
    taus: tuple[float, ...] = TAUS


def summarise(rows: Sequence[StudyRow]) -> StudySummary:
    """Summarise the rows of a study."""
    names = list(dict.fromkeys(row.strategy for row in rows))
    by_instance: dict[tuple[str, str], dict[str, list[StudyRow]]] = {}
    for row in rows:
        if row.status != "no problem":
            by_instance.setdefault((row.workload, row.instance), {}).setdefault(row.strategy, []).append(row)
    blocks = [block for block in by_instance.values() if any(row.status == "ok" for rs in block.values() for row in rs)]
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
    return StudySummary(len(blocks), tuple(strategies), wins, test, unusable, cut_short)


def _value(rows: Sequence[StudyRow]) -> float:
    values = [row.value for row in rows if row.value is not None]
    return fmean(values) if values and len(values) == len(rows) else inf


def _snap(ratio: float) -> float:
    """Return 1 for a ratio that differs from 1 only by rounding."""
    return 1.0 if ratio <= 1 + _EQUAL else ratio


def _strategy(
    name: str,
    rows: Sequence[StudyRow],
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
    listed = list(flags)
    return sum(listed) / len(listed) if listed else 0.0
