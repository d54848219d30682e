"""The slow tests that CI draws: within the budget, the same for a seed, and of as many functions as possible."""

from __future__ import annotations

import pytest

from tests.slow_sample import slow_sample

COSTS_S = {"a[1]": 5.0, "a[2]": 5.0, "a[3]": 5.0, "b": 8.0, "c[x]": 20.0, "d": 100.0}


@pytest.mark.parametrize("budget_s", [0.0, 13.0, 33.0, 60.0])
def test_a_sample_keeps_to_its_budget(budget_s: float) -> None:
    for seed in range(20):
        chosen = slow_sample(COSTS_S, budget_s, seed)
        assert sum(COSTS_S[name] for name in chosen) <= budget_s
        assert chosen == slow_sample(dict(reversed(COSTS_S.items())), budget_s, seed)


def test_each_function_comes_before_a_second_case_of_one() -> None:
    for seed in range(20):
        functions = [name.partition("[")[0] for name in slow_sample(COSTS_S, 33.0, seed)]
        assert sorted(functions) == ["a", "b", "c"]


def test_another_seed_draws_other_cases() -> None:
    assert len({frozenset(slow_sample(COSTS_S, 33.0, seed)) for seed in range(20)}) > 1
