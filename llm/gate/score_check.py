"""Compares a runner's scores with those of a reference, at lengths where kernels are known to change.

A device may load a model, run it, generate the same tokens as the CPU for a while, and still compute wrong values. The
distance of the distributions over the next token shows that where tokens agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..running.kv_cache import KvCache
from ..running.runners.runner import Runner

LENGTHS = (1, 31, 33, 300, 301)
"""Numbers of tokens after which scores are compared: one; either side of 32, the width of GPUs' subgroups; several
tiles of a prompt; and one step of decode after them."""


@dataclass(frozen=True)
class ScoreDifference:
    """The largest difference between two devices' scores."""

    kl: float
    """Kullback-Leibler divergence of the distributions over the next token, in nats."""
    tokens: int
    """Number of tokens after which it was seen."""
    at_once: bool
    """Whether these tokens were one prompt, or followed others."""


def check_tokens(vocab: int, context_length: int) -> np.ndarray:
    """Return the token ids that scores are compared for: the same ones each time, as many as the context holds."""
    count = min(LENGTHS[-1], context_length)
    return np.random.default_rng(0).integers(0, vocab, count)


def reference_scores(runner: Runner, cache: KvCache, ids: np.ndarray) -> dict[int, np.ndarray]:
    """Return the scores after each of `LENGTHS` that there are enough tokens for."""
    runner.reset(cache)
    return {end: runner.forward(ids[start:end], start).copy() for start, end in _spans(ids)}


def largest_difference(
    runner: Runner, cache: KvCache, ids: np.ndarray, expected: dict[int, np.ndarray], lengths: Sequence[int] = LENGTHS
) -> ScoreDifference:
    """Compute the tokens as prompts of each length, and as one sequence of parts, and compare the scores."""
    worst = ScoreDifference(0.0, 0, True)
    for end in lengths[:-1]:
        if end in expected:
            cache.clear()
            runner.reset(cache)
            worst = _larger(worst, runner.forward(ids[:end], 0), expected[end], end, True)
    cache.clear()
    runner.reset(cache)
    for start, end in _spans(ids):
        if end in lengths:
            worst = _larger(worst, runner.forward(ids[start:end], start), expected[end], end, False)
    return worst


def kl_divergence(expected: np.ndarray, scores: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of two distributions given by their scores (logits), in nats.

    Infinite where a score is no number.

    Examples
    --------
    >>> kl_divergence(np.zeros(4), np.ones(4))
    0.0
    """
    if not np.isfinite(scores).all():
        return float("inf")
    p, q = (_log_softmax(np.asarray(values, np.float64)) for values in (expected, scores))
    return max(0.0, float(np.sum(np.exp(p) * (p - q))))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max()
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return result


def _larger(
    worst: ScoreDifference, scores: np.ndarray, expected: np.ndarray, tokens: int, at_once: bool
) -> ScoreDifference:
    kl = kl_divergence(expected, scores)
    return ScoreDifference(kl, tokens, at_once) if kl > worst.kl else worst


def _spans(ids: np.ndarray) -> list[tuple[int, int]]:
    """Return the parts between the lengths."""
    return list(itertools.pairwise([0, *(end for end in LENGTHS if end <= len(ids))]))
