"""What all runners have in common: a `Runner` computes the scores (logits) after further tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.engines.base import CancellableModule, Module

from ..kv_cache import KvCache


class Runner(Protocol):
    """A language model loaded on one device."""

    device: Device
    handover_s: float
    """Time spent so far on copying keys and values from or to a `KvCache`."""
    context_limit: int | None = None
    """Tokens that fit into its cache, where those are fewer than the model's context."""

    def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
        """Return the scores after tokens that follow `start` earlier ones.

        Parameters
        ----------
        ids : ndarray
            int64 [n], or [batch, n] on a runner loaded for a batch.

        Returns
        -------
        ndarray
            float32 [vocabulary] or [batch, vocabulary]; overwritten by the next call.
        """

    def continue_from(self, cache: KvCache) -> None:
        """Continue from a cache that another runner filled."""

    def reset(self, cache: KvCache) -> None:
        """Start a new sequence; a runner loaded with `exports_cache` writes its keys and values to this cache."""

    def rewind(self, length: int) -> int:
        """Forget all tokens but the first `length`, and return how many are left: 0 where an engine has to reset."""

    def cancel(self) -> None:
        """End the present `forward` from another thread, where the engine can: it raises `RunCancelled`.

        What was computed before it stays, and can be kept with `rewind`, unless a layer keeps less than all tokens.
        """

    def close(self) -> None:
        """Release the device's memory."""


def cancel_run(module: Module) -> None:
    """End the present run of a module, where its engine can."""
    if isinstance(module, CancellableModule):
        module.cancel()


def plain_feeds(inputs: set[str], ids: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Return the inputs other than the cache, of those that the graph has."""
    rows = np.ascontiguousarray(np.atleast_2d(ids), np.int64)
    batch, count = rows.shape
    feeds = {"input_ids": rows}
    if "position_ids" in inputs:
        feeds["position_ids"] = np.tile(np.arange(start, start + count, dtype=np.int64), (batch, 1))
    if "seqlens_k" in inputs:
        feeds["seqlens_k"] = np.full(batch, start + count - 1, np.int32)
        feeds["total_sequence_length"] = np.array(start + count, np.int32)
    if "attention_mask" in inputs:
        feeds["attention_mask"] = np.ones((batch, start + count), np.int64)
    return feeds


def last_scores(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the last token's scores: without the batch axis where the ids have none."""
    scores: np.ndarray = logits[0, -1] if ids.ndim == 1 else logits[:, -1]
    return scores


def export_all(cache: KvCache, values: Mapping[str, np.ndarray]) -> None:
    """Write the keys and values of all tokens to a cache, which may hold others."""
    cache.clear()
    for name, rows in values.items():
        cache.reserve(rows.shape[2])
        cache.write(name, rows, 0)
    cache.length = rows.shape[2]
