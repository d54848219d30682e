"""A model loaded on a prefill and a decode device, and the KV cache that they share: prompts, steps, lost devices.

The prefill device computes the prompt and hands the cache over once; the decode device computes one token at a time
from then on. Where one of them fails, the other computes all tokens so far again and goes on alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from trisect.runtime.errors import EngineFailed, OutOfMemory, RunCancelled, TrisectError
from trisect.runtime.interruptible import call_cancellably

from ..bundle import Bundle
from .generation_stats import DeviceLoss, GenerationStats
from .kv_cache import KvCache
from .runners.runner import Runner

_FAILURES = (EngineFailed, OutOfMemory)
"""What a device raises that is gone, or has no memory left; invalid requests would fail on the other one too."""
_CANCELLABLE_TOKENS = 32
"""A run of fewer tokens ends soon by itself."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptScores:
    """A computed prompt."""

    scores: np.ndarray | None
    """After its last token, float32 [vocabulary]; overwritten by the next run. None if it was stopped before that."""
    device: str
    """Id of the device that computed it."""
    kv_s: float
    """Copying keys and values between the devices."""
    cached_tokens: int
    """Tokens whose keys and values were there already."""


class DevicePair:
    """Runners of both phases, which are the same one where a device does both, with the tokens in their caches.

    Parameters
    ----------
    bundle : Bundle
    prefill, decode : Runner
    chunk_tokens : int
        Prompt tokens computed at once.
    keeps_cache : bool
        Compute only what a prompt adds to the tokens of the prompt and answer before it.
    """

    def __init__(
        self, bundle: Bundle, prefill: Runner, decode: Runner, *, chunk_tokens: int, keeps_cache: bool
    ) -> None:
        self.prefill, self.decode = prefill, decode
        limits = (bundle.context_length, prefill.context_limit, decode.context_limit)
        self.context_length = min(limit for limit in limits if limit is not None)
        """Tokens that the model and both devices hold."""
        self.losses: list[DeviceLoss] = []
        self.last_split: GenerationStats | None = None
        """Of the last answer for which a cache was handed over."""
        self._bundle = bundle
        self._chunk_tokens = chunk_tokens
        self._keeps_cache = keeps_cache
        self._cache: KvCache | None = None
        # Tokens of which each runner has keys and values; those of the prefill device are in `_cache` as well.
        self._decoded: list[int] = []
        self._prefilled: list[int] = [] if self.is_split else self._decoded

    @property
    def is_split(self) -> bool:
        """Whether two devices hold the model."""
        return self.prefill is not self.decode

    def close(self) -> None:
        """Release the devices' memory."""
        self.prefill.close()
        self.decode.close()
        self._cache = None

    def prompt(
        self, ids: Sequence[int], new_tokens: int, should_stop: Callable[[], bool] | None = None
    ) -> PromptScores:
        """Compute a prompt in chunks and hand its cache over to the decode device.

        Parameters
        ----------
        ids : sequence of int
        new_tokens : int
            Tokens that will follow, to allocate for.
        should_stop : callable, optional
            Asked in short intervals; ends the run of a chunk where the engine can. Whole chunks stay in the cache.
        """
        capacity = min(len(ids) + new_tokens, self.context_length)
        if self._cache is None:
            self._cache = self._bundle.new_cache(capacity)
        self._cache.reserve(capacity)
        before = self.prefill.handover_s + self.decode.handover_s
        runner = self.decode if not self.is_split or self.continues_on_decode_device(ids) else self.prefill
        failing = runner
        try:
            scores, cached_tokens = self._compute(runner, ids, should_stop)
            if scores is not None and runner is not self.decode:
                failing = self.decode
                self.decode.continue_from(self._cache)
                self._decoded[:] = ids
        except _FAILURES as error:
            scores = self._replace(failing, error, ids)
            return PromptScores(scores, self.decode.device.id, 0.0, 0)
        kv_s = self.prefill.handover_s + self.decode.handover_s - before
        return PromptScores(scores, runner.device.id, kv_s, cached_tokens)

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Return the scores after the last of all tokens so far; the others were computed before."""
        try:
            scores = self.decode.forward(np.array(ids[-1:]), len(ids) - 1)
        except _FAILURES as error:
            return self._replace(self.decode, error, ids)
        self._decoded.append(ids[-1])
        return scores

    def continues_on_decode_device(self, ids: Sequence[int]) -> bool:
        """Return whether a prompt continues sooner where the answer before it was generated.

        The decode device has that answer in its cache, the prefill device has not. Several tokens at once take no
        longer than one by one, which the answer has measured.
        """
        last, added = self.last_split, len(ids) - _common_length(self._decoded, ids[:-1])
        if not self._keeps_cache or last is None or added == len(ids):
            return False
        by_prefill_device = len(ids) - _common_length(self._prefilled, ids[:-1])
        return added / last.decode_tok_s < by_prefill_device / last.prefill_tok_s + last.kv_s

    def _compute(
        self, runner: Runner, ids: Sequence[int], should_stop: Callable[[], bool] | None = None
    ) -> tuple[np.ndarray | None, int]:
        """Compute a prompt on one device; return its scores, and the number of tokens that were there already.

        A prompt that is stopped has no scores; the chunks that were computed of it stay in the cache.
        """
        assert self._cache is not None
        computed = self._decoded if runner is self.decode else self._prefilled
        start = runner.rewind(_common_length(computed, ids[:-1])) if self._keeps_cache and computed else 0
        if start == 0:
            self._cache.clear()
            runner.reset(self._cache)
        # Also those of the other device: it shares the buffers of the cache, or is going to continue from them.
        for tokens in (self._prefilled, self._decoded):
            del tokens[start:]
        scores: np.ndarray | None = None
        array = np.asarray(ids, np.int64)
        before, computed[:] = computed[:], []  # nothing is known of a cache where the engine fails within a run
        end = start
        while end < len(ids):
            if end > start and should_stop is not None and should_stop():
                scores = None
                break
            run = partial(runner.forward, array[end : end + self._chunk_tokens], end)
            try:
                scores = call_cancellably(run, runner.cancel, should_stop) if _is_long(len(ids) - end) else run()
                end = min(end + self._chunk_tokens, len(ids))
            except (RunCancelled, KeyboardInterrupt) as error:
                computed[:] = [*before, *ids[start:end]] if self._keeps_tokens(runner, end) else []
                if isinstance(error, KeyboardInterrupt):
                    raise
                return None, start
        computed[:] = [*before, *ids[start:end]]
        return scores, start

    def _keeps_tokens(self, runner: Runner, count: int) -> bool:
        """Return whether the tokens before a cancelled run are left; not where it may have overwritten some."""
        assert self._cache is not None
        overwrites = bool(self._cache.states) or any(layer.window is not None for layer in self._cache.layers)
        return count > 0 and not overwrites and runner.rewind(count) == count

    def _replace(self, failed: Runner, error: TrisectError, ids: Sequence[int]) -> np.ndarray:
        """Compute all tokens on the other device, which does both phases from now on, and return the scores.

        Raises
        ------
        EngineFailed, OutOfMemory
            If there is no other device, or it fails too.
        """
        if not self.is_split:
            self._decoded.clear()
            raise error
        begin = time.perf_counter()
        successor = self.prefill if failed is self.decode else self.decode
        try:
            failed.close()
        except Exception as closing:  # a device that is gone may raise anything
            _logger.info("%s could not be closed: %s", failed.device.id, closing)
        self.prefill = self.decode = successor
        self._prefilled = self._decoded = []
        self.last_split = None
        try:
            scores, _ = self._compute(successor, ids)
        except _FAILURES as second:
            raise second.with_message(f"{error.message}; and then {second.message}") from error
        assert scores is not None  # nothing stops it
        again_s = time.perf_counter() - begin
        self.losses.append(DeviceLoss(failed.device.id, error.message, successor.device.id, len(ids), again_s))
        return scores


def _is_long(tokens: int) -> bool:
    """Return whether tokens take long enough to be cancelled: another thread computes them then."""
    return tokens >= _CANCELLABLE_TOKENS


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning of two sequences."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
