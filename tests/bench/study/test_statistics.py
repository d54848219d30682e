"""Statistics against published tables, other formulas and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from trisect.bench.study.statistics import (
    bootstrap_interval,
    critical_difference,
    performance_profile,
    rank_test,
    ratio_to,
)


@pytest.mark.parametrize(
    ("k", "q05", "q10"),
    # Demsar 2006, table 5(a): the studentized range over the root of two, to three places and not always rounded.
    [(2, 1.960, 1.645), (3, 2.343, 2.052), (4, 2.569, 2.291), (5, 2.728, 2.459), (7, 2.949, 2.693), (10, 3.164, 2.920)],
)
def test_the_critical_difference_is_that_of_the_table(k: int, q05: float, q10: float) -> None:
    for level, quantile in ((0.05, q05), (0.10, q10)):
        expected = quantile * (k * (k + 1) / (6 * 25)) ** 0.5
        assert critical_difference(k, 25, level) == pytest.approx(expected, rel=5e-4)


def test_the_critical_difference_of_demsars_example() -> None:
    assert critical_difference(4, 14) == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)


def test_the_test_of_ranks_agrees_with_the_formula_and_with_shuffling() -> None:
    random = np.random.default_rng(1)
    table = random.normal(size=(12, 4)) + np.array([0.0, 0.3, 0.6, 0.9])
    result = rank_test({name: list(table[:, i]) for i, name in enumerate("abcd")})
    assert result is not None
    ordered = table.argsort(axis=1).argsort(axis=1) + 1
    sums = ordered.sum(axis=0)
    assert result.chi_square == pytest.approx(12 / (12 * 4 * 5) * (sums**2).sum() - 3 * 12 * 5)
    assert list(result.mean_ranks.values()) == pytest.approx(sums / 12)
    tied = table.round()
    assert rank_test(dict(zip("abcd", tied.T.tolist(), strict=True))).chi_square == pytest.approx(  # type: ignore[union-attr]
        friedmanchisquare(*tied.T).statistic
    )
    shuffled = [random.permuted(ordered, axis=1).sum(axis=0) for _ in range(4000)]
    above = np.mean([12 / (12 * 4 * 5) * (s**2).sum() - 3 * 12 * 5 >= result.chi_square - 1e-9 for s in shuffled])
    assert result.p_value == pytest.approx(above, abs=0.03)


def test_ties_share_ranks_and_leave_nothing_to_tell_apart() -> None:
    result = rank_test({"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]})
    assert result is not None
    assert (result.p_value, result.groups) == (1.0, (("a", "b"),))
    assert result.mean_ranks == {"a": 1.5, "b": 1.5}
    two = rank_test({"a": [1.0, 3.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0, 2.0]})
    assert two is not None
    assert two.mean_ranks == {"a": 1.25, "b": 1.75}
    assert two.chi_square == pytest.approx(1.0)  # the sign test's: (3 - 1) ** 2 / 4
    assert rank_test({"a": [1.0, 2.0]}) is None
    assert rank_test({"a": [1.0], "b": [2.0]}) is None


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        low, high = bootstrap_interval(list(random.exponential(3.0, 60)))
        held += low <= 3.0 <= high
    assert 85 <= held <= 100
    values = list(random.exponential(3.0, 60))
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_profiles_and_ratios() -> None:
    assert performance_profile([1.0, 1.2, 3.0, float("inf")], [1.0, 2.0, 5.0]) == [0.25, 0.5, 0.75]
    assert ratio_to(0.0, 2.0) == float("inf")
