"""How comparisons are summed up: intervals, performance profiles, and whether differences of ranks mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import erf, erfc, exp, gamma, inf, isfinite, log, pi, sqrt

import numpy as np

_RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean (Efron 1979, https://doi.org/10.1214/aos/1176344552).

    Parameters
    ----------
    values : sequence of float
        At least one, all finite.
    level : float
        How often such an interval holds the mean.
    seed : int
        Of the resampling: the same values give the same interval.

    Examples
    --------
    >>> bootstrap_interval([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    given = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    # In blocks: a study of many thousand instances must not take gigabytes here.
    means = np.array([given[random.integers(0, len(given), len(given))].mean() for _ in range(_RESAMPLES)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def performance_profile(ratios: Sequence[float], taus: Sequence[float]) -> list[float]:
    """Share of problems solved within a factor of the best (Dolan and More 2002, https://doi.org/10.1007/s101070100263).

    Parameters
    ----------
    ratios : sequence of float
        Of each problem, value over the best value that anybody found; infinite where there was none.
    taus : sequence of float

    Examples
    --------
    >>> performance_profile([1.0, 1.5, float("inf")], [1.0, 2.0])
    [0.3333333333333333, 0.6666666666666666]
    """
    return [sum(ratio <= tau for ratio in ratios) / len(ratios) for tau in taus] if ratios else [0.0 for _ in taus]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the least; equal values share the mean of theirs.

    Examples
    --------
    >>> ranks([3.0, 1.0, 3.0, float("inf")])
    [2.5, 1.0, 2.5, 4.0]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in order[first : last + 1]:
            found[place] = 1 + (first + last) / 2
        first = last + 1
    return found


@dataclass(frozen=True)
class RankTest:
    """Friedman's test over blocks with Nemenyi's critical difference (Demsar 2006, JMLR 7:1-30)."""

    mean_ranks: Mapping[str, float]
    blocks: int
    chi_square: float
    p_value: float
    """How likely ranks this far apart are if all are equally good."""
    critical_difference: float
    """Mean ranks further apart than this differ, at 5 %."""
    groups: tuple[tuple[str, ...], ...]
    """Largest sets within which no two differ by more, best first."""


def rank_test(table: Mapping[str, Sequence[float]]) -> RankTest | None:
    """Test whether strategies differ; None for fewer than two of them or two blocks.

    Parameters
    ----------
    table : mapping of str to sequence of float
        Strategy -> a value for each block, less is better, infinite for none.

    Examples
    --------
    >>> found = rank_test({"a": [1.0] * 20, "b": [2.0] * 20, "c": [2.0] * 20})
    >>> found.mean_ranks["a"], found.p_value < 0.05, found.groups
    (1.0, True, (('a',), ('b', 'c')))
    """
    names = list(table)
    k, n = len(names), len(next(iter(table.values()), ()))
    if k < 2 or n < 2:
        return None
    rows = [ranks([table[name][block] for name in names]) for block in range(n)]
    means = {name: sum(row[i] for row in rows) / n for i, name in enumerate(names)}
    ties = 0.0
    for row in rows:
        ties += sum(count**3 - count for count in (row.count(rank) for rank in set(row)))
    weight = 1 - ties / (n * k * (k * k - 1))
    plain = 12 * n / (k * (k + 1)) * sum((mean - (k + 1) / 2) ** 2 for mean in means.values())
    chi_square = plain / weight if weight > 0 else 0.0
    distance = critical_difference(k, n)
    return RankTest(means, n, chi_square, chi_square_tail(chi_square, k - 1), distance, _groups(means, distance))


def _groups(means: Mapping[str, float], distance: float) -> tuple[tuple[str, ...], ...]:
    order = sorted(means, key=lambda name: (means[name], name))
    found: list[tuple[str, ...]] = []
    for i, name in enumerate(order):
        near = tuple(other for other in order[i:] if means[other] - means[name] <= distance)
        if not found or not set(near) <= set(found[-1]):
            found.append(near)
    return tuple(found)


def critical_difference(strategies: int, blocks: int, level: float = 0.05) -> float:
    """How far two of so many mean ranks over so many blocks must be apart to differ (Nemenyi).

    Examples
    --------
    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    return studentized_range(strategies, level) / sqrt(2) * sqrt(strategies * (strategies + 1) / (6 * blocks))


def chi_square_tail(x: float, freedom: int) -> float:
    """Chance that a chi-square variable of so many degrees of freedom is above x.

    Examples
    --------
    >>> round(chi_square_tail(5.991, 2), 3), round(chi_square_tail(7.815, 3), 3)
    (0.05, 0.05)
    """
    if x <= 0:
        return 1.0
    if not isfinite(x):
        return 0.0
    half = x / 2
    # In logarithms: with many blocks the powers alone would overflow.
    start = erfc(sqrt(half)) if freedom % 2 else 0.0
    steps = [i + 0.5 if freedom % 2 else float(i) for i in range(freedom // 2)]
    return min(1.0, start + sum(exp(-half + s * log(half)) / gamma(s + 1) for s in steps))


@cache
def studentized_range(groups: int, level: float) -> float:
    """Upper quantile of the range of so many standard normal variables, by bisection.

    Examples
    --------
    >>> round(studentized_range(2, 0.05) / 2**0.5, 3), round(studentized_range(10, 0.05) / 2**0.5, 3)
    (1.96, 3.164)
    """
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _range_below(middle, groups) < 1 - level else (low, middle)
    return (low + high) / 2


def _range_below(q: float, groups: int) -> float:
    """Chance that so many standard normal variables lie within q of each other: the largest at z, all others near."""
    step, total, z = 0.02, 0.0, -8.0
    while z < 8.0:
        inside = (erf(z / sqrt(2)) - erf((z - q) / sqrt(2))) / 2
        total += exp(-z * z / 2) / sqrt(2 * pi) * inside ** (groups - 1)
        z += step
    return groups * total * step


def ratio_to(best: float, value: float) -> float:
    """A value over the best one; 1 where both are nothing.

    Examples
    --------
    >>> ratio_to(2.0, 3.0), ratio_to(0.0, 0.0), ratio_to(0.0, 1.0)
    (1.5, 1.0, inf)
    """
    if value == best:
        return 1.0
    return value / best if best > 0 else inf
