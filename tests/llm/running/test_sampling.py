"""Sampling follows its definitions, and the same seed draws the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trisect.llm.running.sampling import Sampler, SamplingOptions
from trisect.runtime.errors import InvalidInput

SCORES = np.array([1.0, 3.0, -2.0, 2.0, 0.5], np.float32)


def draws(count: int, scores: np.ndarray = SCORES, **options: Any) -> np.ndarray:
    """Share of each token in independent draws."""
    sampler = Sampler(SamplingOptions(**options), [])
    return np.bincount([sampler.choose(scores) for _ in range(count)], minlength=len(scores)) / count


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores.astype(np.float64))
    return weights / weights.sum()


def test_greedy_takes_the_best() -> None:
    assert Sampler(SamplingOptions(), []).choose(SCORES) == 1
    assert Sampler(SamplingOptions(top_k=3, top_p=0.1, seed=7), []).choose(SCORES) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_follows_the_softmax(temperature: float) -> None:
    result = draws(20_000, temperature=temperature)
    np.testing.assert_allclose(result, softmax(SCORES / temperature), atol=0.015)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert draws(20, temperature=temperature)[1] == 1
    assert draws(20, scores=SCORES - 1e30, temperature=temperature).sum() == 1


def test_top_k_keeps_the_best() -> None:
    result = draws(5000, temperature=1.0, top_k=2)
    expected = np.array([0, np.exp(3.0), 0, np.exp(2.0), 0])
    np.testing.assert_allclose(result, expected / expected.sum(), atol=0.03)
    assert draws(200, temperature=5.0, top_k=1)[1] == 1
    np.testing.assert_array_equal(draws(300, temperature=1.0, top_k=99), draws(300, temperature=1.0))


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    weights = softmax(SCORES)
    order = np.argsort(-weights)
    two = weights[order[:2]].sum()
    assert set(np.flatnonzero(draws(3000, temperature=1.0, top_p=float(two) - 1e-6))) == set(order[:2])
    assert set(np.flatnonzero(draws(3000, temperature=1.0, top_p=float(two) + 1e-6))) == set(order[:3])
    assert draws(300, temperature=1.0, top_p=1e-9)[1] == 1
    np.testing.assert_array_equal(draws(300, temperature=1.0, top_p=1.0), draws(300, temperature=1.0))


def test_repetition_penalty_divides_positive_scores_and_multiplies_negative_ones() -> None:
    options = SamplingOptions(repetition_penalty=2.0)
    assert Sampler(options, [1]).choose(SCORES) == 3
    assert Sampler(options, [1, 3]).choose(SCORES) == 1  # 1.5 against 1.0
    assert Sampler(options, [1, 3, 1, 1]).choose(SCORES) == 1  # once, however often seen
    negative = np.array([-1.0, -1.5], np.float32)
    assert Sampler(options, [0]).choose(negative) == 1
    sampler = Sampler(options, [])
    assert [sampler.choose(SCORES) for _ in range(3)] == [1, 3, 1]  # what was chosen counts as seen


def test_scores_are_left_as_they_are() -> None:
    scores = SCORES.copy()
    Sampler(SamplingOptions(repetition_penalty=3.0, temperature=0.7, top_k=3, top_p=0.9), [0, 1, 2, 3]).choose(scores)
    np.testing.assert_array_equal(scores, SCORES)


def test_the_seed_decides() -> None:
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)

    def sequence(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, top_p=0.95, seed=seed), [])
        return [sampler.choose(scores) for _ in range(50)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


def test_impossible_tokens_are_never_drawn() -> None:
    scores = np.full(100, -np.inf, np.float32)
    scores[[7, 9]] = 1.0
    assert set(np.flatnonzero(draws(200, scores=scores, temperature=1.0))) == {7, 9}


@pytest.mark.parametrize("scores", [np.array([1.0, np.nan]), np.array([np.inf, 1.0]), np.full(3, -np.inf)])
def test_scores_that_are_not_finite_are_rejected(scores: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="not finite numbers"):
        Sampler(SamplingOptions(temperature=1.0), []).choose(scores.astype(np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_rejected_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        SamplingOptions(**options)
