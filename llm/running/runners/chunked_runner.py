"""Limits how many tokens a device computes in one run."""

from __future__ import annotations

import numpy as np

from ..kv_cache import KvCache
from .runner import Runner


class ChunkedRunner(Runner):
    """Passes tokens on to another runner, in chunks that its device computes correctly."""

    def __init__(self, runner: Runner, max_tokens: int) -> None:
        self.device = runner.device
        self.context_limit = runner.context_limit
        self.max_tokens = max_tokens
        self._runner = runner

    @property
    def handover_s(self) -> float:  # type: ignore[override]
        """Time spent so far on copying keys and values from or to a `KvCache`."""
        return self._runner.handover_s

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        scores = np.empty(0, np.float32)
        for at in range(0, ids.shape[-1], self.max_tokens):
            scores = self._runner.forward(ids[..., at : at + self.max_tokens], start + at)
        return scores

    def continue_from(self, cache: KvCache) -> None:
        self._runner.continue_from(cache)

    def reset(self, cache: KvCache) -> None:
        self._runner.reset(cache)

    def rewind(self, length: int) -> int:
        return self._runner.rewind(length)

    def cancel(self) -> None:
        self._runner.cancel()

    def close(self) -> None:
        self._runner.close()
