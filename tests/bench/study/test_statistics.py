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
from trisect.bench.study.study_rows import ProblemSize, RunOutcome, StudyRow, make_row
from trisect.bench.study.study_summary import summarise
from trisect.bench.study.summary_tables import to_latex, to_markdown


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


def row(instance: str, strategy: str, value: float | None, seed: int = 0, bound: float = 1.0) -> StudyRow:
    outcome = RunOutcome("ok", value, bound, 0.001) if value is not None else RunOutcome("failed", reason="x")
    return make_row(("w", instance, strategy, seed), ProblemSize(3, 2, 2, "latency", "tasks"), outcome, "")


def test_a_summary_by_hand() -> None:
    rows = [
        *(row("one", "a", 2.0, seed) for seed in (0, 1)),
        row("one", "b", 3.0, 0),
        row("one", "b", 5.0, 1),
        row("two", "a", 4.0, bound=2.0),
        row("two", "b", 2.0, bound=2.0),
        row("three", "a", None),
        row("three", "b", 1.0),
        row("none", "a", None),
        row("none", "b", None),
    ]
    result = summarise(rows)
    by_name = {s.strategy: s for s in result.strategies}
    a, b = by_name["a"], by_name["b"]
    assert result.blocks == 3  # an instance that no strategy solved does not count
    assert (a.mean_ratio, a.worst_ratio, a.best, a.failed, a.runs) == (1.5, 2.0, 1, 2, 5)
    assert (b.mean_ratio, b.worst_ratio, b.best, b.failed) == (pytest.approx(4 / 3), 2.0, 2, 1)
    assert result.wins == {"a": {"b": pytest.approx(1 / 3)}, "b": {"a": pytest.approx(2 / 3)}}
    assert a.profile[0] == pytest.approx(1 / 3)
    assert a.profile[-1] == pytest.approx(2 / 3)
    assert a.mean_gap == pytest.approx((1.0 + 1.0) / 2)
    assert [s.strategy for s in result.strategies] == ["b", "a"]
    assert "| b | 1.3333 |" in to_markdown(result)


def test_tables_are_safe_to_paste() -> None:
    result = summarise([row("one", "a_b|50%", 1.0), row("two", "a_b|50%", 1.0)])
    assert r"a\_b|50\%" in to_latex(result)
    assert r"| a_b\|50% |" in to_markdown(result)


def test_a_study_without_any_solution_has_a_summary() -> None:
    result = summarise([row("one", "a", None)])
    assert (result.blocks, result.strategies[0].failed, result.test) == (0, 1, None)
    assert "| a | - |" in to_markdown(result)
