"""Chooses the next token from scores: greedy, or sampled with temperature, top-k, top-p and repetition penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trisect.runtime.errors import InvalidInput


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample tokens. The options are applied in the order in which they are listed here.

    Examples
    --------
    >>> SamplingOptions().is_greedy
    True
    """

    repetition_penalty: float = 1.0
    """Divide the scores (multiply, if negative) of tokens that occurred before (Keskar et al., arXiv 1909.05858)."""
    temperature: float = 0.0
    """Divide all scores by it before the softmax; 0 = greedy."""
    top_k: int = 0
    """Sample from the k tokens with the highest scores; 0 = all."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this total probability (Holtzman et al., arXiv 1904.09751)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInput(f"temperature is {self.temperature}", remedy="give 0 or more")
        if self.top_k < 0:
            raise InvalidInput(f"top_k is {self.top_k}", remedy="give 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise InvalidInput(f"top_p is {self.top_p}", remedy="give more than 0 and at most 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise InvalidInput(f"repetition_penalty is {self.repetition_penalty}", remedy="give more than 0; 1 = none")
        if self.seed < 0:
            raise InvalidInput(f"seed is {self.seed}", remedy="give 0 or more")

    @property
    def is_greedy(self) -> bool:
        """Whether the token with the highest score is always chosen."""
        return self.temperature == 0


class Sampler:
    """Samples the tokens of one answer.

    Parameters
    ----------
    seen : sequence of int
        The prompt's tokens, which the repetition penalty applies to.
    """

    def __init__(self, options: SamplingOptions, seen: Sequence[int]) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._seen = set(seen)

    def choose(self, scores: np.ndarray) -> int:
        """Return the next token, from scores float32 [vocabulary], which are not changed.

        Raises
        ------
        InvalidInput
            If the scores are not finite: the model is damaged, or its precision too low.
        """
        options = self._options
        if options.repetition_penalty != 1.0:
            scores = scores.copy()
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            scores[seen] *= np.where(scores[seen] > 0, 1 / options.repetition_penalty, options.repetition_penalty)
        best = int(scores.argmax())
        if not np.isfinite(scores[best]):
            raise InvalidInput("the model's scores are not finite numbers", remedy="try --precision float32")
        token = best if options.is_greedy else self._sample(scores)
        self._seen.add(token)
        return token

    def _sample(self, scores: np.ndarray) -> int:
        options = self._options
        if 0 < options.top_k < len(scores):
            candidates = np.argpartition(scores, -options.top_k)[-options.top_k :]
        else:
            candidates = np.arange(len(scores))
        # Equal scores are ordered by id, so that the sample does not depend on the order after partitioning.
        candidates = candidates[np.lexsort((candidates, -scores[candidates]))]
        # Subtract the maximum first: at a temperature near 0 only that stays finite.
        difference = scores[candidates].astype(np.float64) - float(scores[candidates[0]])
        with np.errstate(over="ignore"):
            weights = np.exp(difference / options.temperature)
        weights /= weights.sum()
        if options.top_p < 1:
            count = int(np.searchsorted(np.cumsum(weights), options.top_p)) + 1
            candidates, weights = candidates[:count], weights[:count] / weights[:count].sum()
        drawn = int(np.searchsorted(np.cumsum(weights), self._random.random(), side="right"))
        return int(candidates[min(drawn, len(candidates) - 1)])
