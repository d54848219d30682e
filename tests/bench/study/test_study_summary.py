"""Summaries of a study's rows, against figures computed by hand, and their tables."""

from __future__ import annotations

import pytest

from trisect.bench.study.study_rows import ProblemSize, RunOutcome, StudyRow, make_row
from trisect.bench.study.study_summary import summarise
from trisect.bench.study.summary_tables import to_latex, to_markdown


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
