"""Generates text token by token: prefill on one device, decode on the same or on another.

A `LanguageSession` holds a model loaded for one pair of devices. The prefill device computes the prompt in chunks and
hands the KV cache over once; the decode device computes one token at a time from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput
from trisect.runtime.free_memory import return_freed_memory

from ..bundle import Bundle
from ..gate.numeric_gate import check_numbers, load_gated_runner
from ..tokenization.tokenizer import Tokenizer
from .answer_text import AnswerText
from .generation_stats import GenerationStats, PhaseTimer
from .kv_cache import KvCache
from .prompt import Prompt, tokenise
from .runners.concurrent_loading import load_concurrently
from .runners.runner import Runner
from .runners.static_loading import FixedShapes
from .sampling import Sampler, SamplingOptions

DEFAULT_CHUNK_TOKENS = 2048
"""Prompt tokens computed at once: limits the memory for activations.

Shorter chunks would let a prompt be stopped sooner, but OpenVINO 2026.4 took 2.5 times as long for 2000 tokens of
SmolLM2-135M in chunks of 1024, since its attention is slower where there is a past.
"""


@dataclass(frozen=True)
class Generation:
    """A generated answer."""

    text: str
    token_ids: tuple[int, ...]
    stats: GenerationStats
    finish: str
    """Why it ended: ``eos``, ``stop``, ``length``, ``context`` or ``interrupted``."""


class LanguageSession:
    """A language model loaded on a prefill and a decode device; a context manager.

    Parameters
    ----------
    prefill, decode : Device
        May be the same; the model is then loaded once.
    threads : int, optional
        Compute threads of each engine; None = the engine's default.
    precision : {"fast", "float32"}
        ``float32`` computes in float32 throughout, as a reference.
    chunk_tokens : int
        Prompt tokens computed at once.
    tokenizer : Tokenizer, optional
        The bundle's, if it is loaded already.
    keeps_cache : bool
        Compute only what a prompt adds to the tokens of the prompt and answer before it.
    context_tokens : int, optional
        Tokens of the longest prompt with its answer, for devices that need fixed shapes; None = some thousand.
    """

    def __init__(
        self,
        bundle: Bundle,
        prefill: Device,
        decode: Device,
        *,
        threads: int | None = None,
        precision: str = "fast",
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
        tokenizer: Tokenizer | None = None,
        keeps_cache: bool = False,
        context_tokens: int | None = None,
    ) -> None:
        if chunk_tokens < 1:
            raise InvalidInput(f"chunk_tokens is {chunk_tokens}", remedy="give 1 or more")
        check_numbers(bundle, (prefill, decode), precision=precision)
        begin = time.perf_counter()
        self.bundle = bundle
        self.tokenizer = tokenizer or Tokenizer.load(bundle.folder)
        self._chunk_tokens = chunk_tokens
        self._is_split = prefill.id != decode.id

        def loader(
            device: Device, *, decodes: bool, exports_cache: bool, prefills: bool = True
        ) -> Callable[[], Runner]:
            return lambda: load_gated_runner(
                bundle, device, threads=threads, precision=precision, decodes=decodes, exports_cache=exports_cache,
                fixed=FixedShapes(context_tokens, prefills),
            )  # fmt: skip

        loaders = [loader(prefill, decodes=not self._is_split, exports_cache=self._is_split)]
        if self._is_split:
            loaders.append(loader(decode, decodes=True, exports_cache=False, prefills=False))
        runners = load_concurrently(loaders)
        self._prefill, self._decode = runners[0], runners[-1]
        return_freed_memory()  # what engines took while they packed weights
        self._cache: KvCache | None = None
        self._keeps_cache = keeps_cache
        # Tokens of which each runner has keys and values; those of the prefill device are in `_cache` as well.
        self._decoded: list[int] = []
        self._prefilled: list[int] = [] if self._is_split else self._decoded
        self._last_split: GenerationStats | None = None
        self.load_s = time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the devices' memory."""
        self._prefill.close()
        self._decode.close()
        self._cache = None

    @property
    def decode_runner(self) -> Runner:
        """The runner that computes single tokens, for measurements of the runner alone."""
        return self._decode

    def generate(
        self,
        prompt: str | Sequence[int] | Prompt,
        *,
        max_new_tokens: int = 64,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        chat: bool = True,
        ignore_eos: bool = False,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Generation:
        """Generate an answer to a prompt.

        Parameters
        ----------
        prompt : str or sequence of int or Prompt
            Text, or token ids as they are; a `Prompt` is not checked again.
        sampling : SamplingOptions, optional
            None = greedy.
        stop : str or sequence of str
            Stop sequences: texts that end the answer and are not part of it.
        chat : bool
            Format text with the model's chat template.
        ignore_eos : bool
            Continue after an end-of-sequence token, for measurements.
        on_text : callable, optional
            Called with each piece of text as it is generated.
        should_stop : callable, optional
            Called after each token, and between chunks of the prompt; ends the answer by returning True.

        Raises
        ------
        InvalidInput
            For an empty prompt, a token outside the vocabulary, or `max_new_tokens` below 1.
        ContextExceeded
            If the prompt does not fit into the model's context.
        """
        ids = tokenise(self.bundle, self.tokenizer, prompt, chat=chat).ids
        answer = AnswerText(self.tokenizer, stop, on_text)
        timer = PhaseTimer()
        finish = "interrupted"  # where there is no token at all
        for token in self._tokens(ids, max_new_tokens, sampling or SamplingOptions(), timer, should_stop):
            finish = ""
            if token in self.tokenizer.eos_ids and not ignore_eos:
                finish = "eos"
                break
            if answer.push(token):
                finish = "stop"
                break
            if should_stop is not None and should_stop():
                finish = "interrupted"
                break
        answer.finish()
        context_is_full = len(ids) + len(answer.ids) >= self.bundle.context_length
        finish = finish or ("context" if context_is_full and len(answer.ids) < max_new_tokens else "length")
        stats = self._stats(ids, answer, timer)
        if stats.kv_bytes and stats.decode_tok_s:
            self._last_split = stats
        return Generation(answer.text, tuple(answer.ids), stats, finish)

    def scores(self, ids: Sequence[int], following: Sequence[int]) -> np.ndarray:
        """Return the scores after a prompt and after each of the given tokens that follow it (teacher forcing).

        Parameters
        ----------
        ids : sequence of int
            The prompt, computed by the prefill device.
        following : sequence of int
            Tokens computed one by one on the decode device.

        Returns
        -------
        numpy.ndarray
            float32 [1 + len(following), vocabulary].
        """
        prompt = tokenise(self.bundle, self.tokenizer, ids).ids
        scores = self._prefill_scores(prompt, len(following) + 1, PhaseTimer())
        assert scores is not None  # nothing interrupts it
        rows = [scores.copy()]
        for at, token in enumerate(following):
            rows.append(self._decode.forward(np.array([token]), len(ids) + at).copy())
        return np.stack(rows)

    def _tokens(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingOptions,
        timer: PhaseTimer,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[int]:
        """Yield new tokens, until there are `max_new_tokens` or the context is full; none if the prompt is stopped."""
        if max_new_tokens < 1:
            raise InvalidInput(f"max_new_tokens is {max_new_tokens}", remedy="ask for 1 or more")
        scores = self._prefill_scores(ids, max_new_tokens, timer, should_stop)
        if scores is None:
            return
        sampler = Sampler(sampling, ids)
        position = len(ids)
        for count in range(1, max_new_tokens + 1):
            token = sampler.choose(scores)
            timer.token_done()
            yield token
            if count == max_new_tokens or position == self.bundle.context_length:
                return
            scores = self._decode.forward(np.array([token]), position)
            self._decoded.append(token)
            position += 1

    def _prefill_scores(
        self,
        ids: Sequence[int],
        new_tokens: int,
        timer: PhaseTimer,
        should_stop: Callable[[], bool] | None = None,
    ) -> np.ndarray | None:
        """Compute a prompt in chunks and hand its cache over to the decode device; None if it is stopped."""
        capacity = min(len(ids) + new_tokens, self.bundle.context_length)
        if self._cache is None:
            self._cache = self.bundle.new_cache(capacity)
        self._cache.reserve(capacity)
        before = self._prefill.handover_s + self._decode.handover_s
        if not self._is_split or self._continues_on_decode_device(ids):
            runner = self._decode
            scores, cached_tokens = self._compute(runner, self._decoded, ids, should_stop)
        else:
            runner = self._prefill
            scores, cached_tokens = self._compute(runner, self._prefilled, ids, should_stop)
            if scores is not None:
                self._decode.continue_from(self._cache)
                self._decoded[:] = ids
        kv_s = self._prefill.handover_s + self._decode.handover_s - before
        timer.prompt_done(runner.device.id, kv_s, cached_tokens)
        return scores

    def _compute(
        self, runner: Runner, computed: list[int], ids: Sequence[int], should_stop: Callable[[], bool] | None
    ) -> tuple[np.ndarray | None, int]:
        """Compute a prompt on one device; return its scores, and the number of tokens that were there already.

        A prompt that is stopped between two chunks has no scores; what was computed of it stays in the cache.
        """
        assert self._cache is not None
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
            scores = runner.forward(array[end : end + self._chunk_tokens], end)
            end = min(end + self._chunk_tokens, len(ids))
        computed[:] = [*before, *ids[start:end]]
        return scores, start

    def _continues_on_decode_device(self, ids: Sequence[int]) -> bool:
        """Return whether a prompt continues sooner where the answer before it was generated.

        The decode device has that answer in its cache, the prefill device has not. Several tokens at once take no
        longer than one by one, which the answer has measured.
        """
        last, added = self._last_split, len(ids) - _common_length(self._decoded, ids[:-1])
        if not self._keeps_cache or last is None or added == len(ids):
            return False
        by_prefill_device = len(ids) - _common_length(self._prefilled, ids[:-1])
        return added / last.decode_tok_s < by_prefill_device / last.prefill_tok_s + last.kv_s

    def _stats(self, ids: Sequence[int], answer: AnswerText, timer: PhaseTimer) -> GenerationStats:
        return GenerationStats(
            prefill=timer.device,
            decode=self._decode.device.id,
            prompt_tokens=len(ids),
            cached_tokens=timer.cached_tokens,
            new_tokens=len(answer.ids),
            load_s=self.load_s,
            prefill_s=timer.prefill_s,
            kv_s=timer.kv_s,
            kv_bytes=self.bundle.cache_bytes(len(ids)) if timer.device != self._decode.device.id else 0,
            decode_s=timer.decode_s,
            end_to_end_s=timer.prefill_s + timer.kv_s + timer.decode_s,
            weights_copies=2 if self._is_split else 1,
        )


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning of two sequences."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
