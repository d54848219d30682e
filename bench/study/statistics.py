"""Statistics of comparisons: intervals, performance profiles, and significance of differences of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

_RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron 1979, https://doi.org/10.1214/aos/1176344552).

    Parameters
    ----------
    values : sequence of float
        At least one, all finite.

    Examples
    --------
    >>> bootstrap_interval([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    # One sample at a time: all samples of a study of many thousand instances would take gigabytes.
    means = np.array([array[rng.integers(0, len(array), len(array))].mean() for _ in range(_RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def performance_profile(ratios: Sequence[float], taus: Sequence[float]) -> list[float]:
    """Return the shares of problems within factors of the best (Dolan and More 2002).

    https://doi.org/10.1007/s101070100263

    Parameters
    ----------
    ratios : sequence of float
        Of each problem, the value over the best value of any strategy; infinite where unsolved.
    taus : sequence of float
        Factors.

    Examples
    --------
    >>> performance_profile([1.0, 1.5, float("inf")], [1.0, 2.0])
    [0.3333333333333333, 0.6666666666666666]
    """
    return [sum(ratio <= tau for ratio in ratios) / len(ratios) for tau in taus] if ratios else [0.0 for _ in taus]


@dataclass(frozen=True)
class RankTest:
    """Friedman's test over blocks with Nemenyi's critical difference (Demsar 2006, JMLR 7:1-30)."""

    mean_ranks: Mapping[str, float]
    blocks: int
    chi_square: float
    p_value: float
    """Probability of ranks at least this far apart if all strategies are equally good."""
    critical_difference: float
    """Mean ranks further apart than this differ significantly, at 5 %."""
    groups: tuple[tuple[str, ...], ...]
    """Maximal sets of strategies that do not differ significantly, best first."""


def rank_test(table: Mapping[str, Sequence[float]]) -> RankTest | None:
    """Test whether strategies differ; None for fewer than two strategies or blocks.

    Parameters
    ----------
    table : mapping of str to sequence of float
        Strategy -> a value for each block, lower is better, infinite for none.

    Examples
    --------
    >>> test = rank_test({"a": [1.0] * 20, "b": [2.0] * 20, "c": [2.0] * 20})
    >>> test.mean_ranks["a"], test.p_value < 0.05, test.groups
    (1.0, True, (('a',), ('b', 'c')))
    """
    k, n = len(table), len(next(iter(table.values()), ()))
    if k < 2 or n < 2:
        return None
    from scipy import stats  # takes a second to import

    ranks = stats.rankdata(np.transpose(list(table.values())), axis=1)
    means = ranks.mean(axis=0)
    # As scipy's friedmanchisquare, which takes three strategies or more, and fails where all values are equal.
    ties = sum(int((np.unique(row, return_counts=True)[1] ** 3).sum()) - k for row in ranks)
    tie_correction = 1 - ties / (n * k * (k * k - 1))
    statistic = 12 * n / (k * (k + 1)) * float(((means - (k + 1) / 2) ** 2).sum())
    chi_square = statistic / tie_correction if tie_correction > 0 else 0.0
    mean_ranks = dict(zip(table, means.tolist(), strict=True))
    distance = critical_difference(k, n)
    p_value = float(stats.chi2.sf(chi_square, k - 1))
    return RankTest(mean_ranks, n, chi_square, p_value, distance, _groups(mean_ranks, distance))


def _groups(mean_ranks: Mapping[str, float], distance: float) -> tuple[tuple[str, ...], ...]:
    order = sorted(mean_ranks, key=lambda name: (mean_ranks[name], name))
    groups: list[tuple[str, ...]] = []
    for i, name in enumerate(order):
        near = tuple(other for other in order[i:] if mean_ranks[other] - mean_ranks[name] <= distance)
        if not groups or not set(near) <= set(groups[-1]):
            groups.append(near)
    return tuple(groups)


def critical_difference(strategies: int, blocks: int, level: float = 0.05) -> float:
    """Return the difference of two mean ranks that is significant (Nemenyi).

    Examples
    --------
    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    from scipy import stats

    quantile = float(stats.studentized_range.ppf(1 - level, strategies, inf))
    return quantile / sqrt(2) * sqrt(strategies * (strategies + 1) / (6 * blocks))


def ratio_to(best: float, value: float) -> float:
    """Return a value over the best one; 1 where both are 0.

    Examples
    --------
    >>> ratio_to(2.0, 3.0), ratio_to(0.0, 0.0), ratio_to(0.0, 1.0)
    (1.5, 1.0, inf)
    """
    if value == best:
        return 1.0
    return value / best if best > 0 else inf
