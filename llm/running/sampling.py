"""Chooses the next token from scores: greedy, or sampled with the usual controls, the same under the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trisect.runtime.errors import InvalidInput


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens. The controls work in the order in which they stand here.

    Examples
    --------
    >>> SamplingOptions().is_greedy
    True
    """

    repetition_penalty: float = 1.0
    """Divide the scores (multiply, where negative) of tokens that were seen (Keskar et al., arXiv 1909.05858)."""
    temperature: float = 0.0
    """Divide all scores by it before the softmax; 0 = always the best token."""
    top_k: int = 0
    """Keep the best k tokens; 0 = all."""
    top_p: float = 1.0
    """Keep the fewest tokens that together have this probability (Holtzman et al., arXiv 1904.09751)."""
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
        """True where chance has no part in it."""
        return self.temperature == 0


class Sampler:
    """Chooses one token after another for one answer.

    Parameters
    ----------
    options : SamplingOptions
    seen : sequence of int
        The prompt's tokens, for the repetition penalty.
    """

    def __init__(self, options: SamplingOptions, seen: Sequence[int]) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._seen = set(seen)

    def choose(self, scores: np.ndarray) -> int:
        """The next token, from scores float32 [vocabulary]; they are not changed.

        Raises
        ------
        InvalidInput
            Where the scores are not numbers: the model is broken, or its precision too low.
        """
        options = self._options
        if options.repetition_penalty != 1.0:
            scores = scores.copy()
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            scores[seen] *= np.where(scores[seen] > 0, 1 / options.repetition_penalty, options.repetition_penalty)
        best = int(scores.argmax())
        if not np.isfinite(scores[best]):
            raise InvalidInput("the model's scores are not numbers", remedy="try --precision float32")
        token = best if options.is_greedy else self._draw(scores)
        self._seen.add(token)
        return token

    def _draw(self, scores: np.ndarray) -> int:
        options = self._options
        if 0 < options.top_k < len(scores):
            kept = np.argpartition(scores, -options.top_k)[-options.top_k :]
        else:
            kept = np.arange(len(scores))
        # Equal scores in the order of their ids, so that the draw does not depend on how the partition left them.
        kept = kept[np.lexsort((kept, -scores[kept]))]
        # The best subtracted first: at a temperature near 0 only that stays finite.
        behind = scores[kept].astype(np.float64) - float(scores[kept[0]])
        with np.errstate(over="ignore"):
            weights = np.exp(behind / options.temperature)
        weights /= weights.sum()
        if options.top_p < 1:
            enough = int(np.searchsorted(np.cumsum(weights), options.top_p)) + 1
            kept, weights = kept[:enough], weights[:enough] / weights[:enough].sum()
        drawn = int(np.searchsorted(np.cumsum(weights), self._random.random(), side="right"))
        return int(kept[min(drawn, len(kept) - 1)])
