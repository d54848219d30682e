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

from ..bundle import Bundle
from .answer_text import AnswerText
from .kv_cache import KvCache
from .prompt import Prompt, tokenise
from .runners import Runner, load_runner
from .sampling import Sampler, SamplingOptions
from .tokenizer import Tokenizer

DEFAULT_CHUNK_TOKENS = 2048
"""Prompt tokens computed at once: limits the memory for activations."""


@dataclass(frozen=True)
class GenerationStats:
    """Measured times and sizes of one generation."""

    prefill: str
    """Device id."""
    decode: str
    prompt_tokens: int
    new_tokens: int
    load_s: float
    prefill_s: float
    """Whole prompt up to its scores, without handing over."""
    kv_s: float
    """Copying keys and values between the devices."""
    kv_bytes: int
    """Size of what was copied; 0 if one device does both phases."""
    decode_s: float
    """All tokens after the first."""
    end_to_end_s: float
    """From token ids to the last token, without loading."""
    weights_copies: int
    """Number of engines that hold the weights in memory, each in its own layout."""

    @property
    def prefill_tok_s(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tok_s(self) -> float:
        """New tokens per second, after the first."""
        return (self.new_tokens - 1) / self.decode_s if self.decode_s and self.new_tokens > 1 else 0.0


@dataclass(frozen=True)
class Generation:
    """A generated answer."""

    text: str
    token_ids: tuple[int, ...]
    stats: GenerationStats
    finish: str
    """Why it ended: ``eos``, ``stop``, ``length`` or ``context``."""


class _PhaseTimer:
    """Times the phases of one generation."""

    def __init__(self) -> None:
        self._begin = self._prompt_done = self._last_token = time.perf_counter()
        self.kv_s = 0.0

    def prompt_done(self, kv_s: float) -> None:
        self._prompt_done = self._last_token = time.perf_counter()
        self.kv_s = kv_s

    def token_done(self) -> None:
        self._last_token = time.perf_counter()

    @property
    def prefill_s(self) -> float:
        return self._prompt_done - self._begin - self.kv_s

    @property
    def decode_s(self) -> float:
        return self._last_token - self._prompt_done


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
    ) -> None:
        begin = time.perf_counter()
        if chunk_tokens < 1:
            raise InvalidInput(f"chunk_tokens is {chunk_tokens}", remedy="give 1 or more")
        self.bundle = bundle
        self.tokenizer = tokenizer or Tokenizer.load(bundle.folder)
        self._chunk_tokens = chunk_tokens
        self._is_split = prefill.id != decode.id

        def load(device: Device, *, decodes: bool, exports_cache: bool) -> Runner:
            return load_runner(
                bundle, device, threads=threads, precision=precision, decodes=decodes, exports_cache=exports_cache
            )

        self._prefill = load(prefill, decodes=not self._is_split, exports_cache=self._is_split)
        self._decode = load(decode, decodes=True, exports_cache=False) if self._is_split else self._prefill
        self._cache: KvCache | None = None
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

        Raises
        ------
        InvalidInput
            For an empty prompt, a token outside the vocabulary, or `max_new_tokens` below 1.
        ContextExceeded
            If the prompt does not fit into the model's context.
        """
        ids = tokenise(self.bundle, self.tokenizer, prompt, chat=chat).ids
        answer = AnswerText(self.tokenizer, stop, on_text)
        timer = _PhaseTimer()
        finish = ""
        for token in self._tokens(ids, max_new_tokens, sampling or SamplingOptions(), timer):
            if token in self.tokenizer.eos_ids and not ignore_eos:
                finish = "eos"
                break
            if answer.push(token):
                finish = "stop"
                break
        answer.finish()
        context_is_full = len(ids) + len(answer.ids) >= self.bundle.context_length
        finish = finish or ("context" if context_is_full and len(answer.ids) < max_new_tokens else "length")
        return Generation(answer.text, tuple(answer.ids), self._stats(ids, answer, timer), finish)

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
        rows = [self._prefill_scores(prompt, len(following) + 1, _PhaseTimer()).copy()]
        for at, token in enumerate(following):
            rows.append(self._decode.forward(np.array([token]), len(ids) + at).copy())
        return np.stack(rows)

    def _tokens(
        self, ids: Sequence[int], max_new_tokens: int, sampling: SamplingOptions, timer: _PhaseTimer
    ) -> Iterator[int]:
        """Yield new tokens, until there are `max_new_tokens` or the context is full."""
        if max_new_tokens < 1:
            raise InvalidInput(f"max_new_tokens is {max_new_tokens}", remedy="ask for 1 or more")
        scores = self._prefill_scores(ids, max_new_tokens, timer)
        sampler = Sampler(sampling, ids)
        position = len(ids)
        for count in range(1, max_new_tokens + 1):
            token = sampler.choose(scores)
            timer.token_done()
            yield token
            if count == max_new_tokens or position == self.bundle.context_length:
                return
            scores = self._decode.forward(np.array([token]), position)
            position += 1

    def _prefill_scores(self, ids: Sequence[int], new_tokens: int, timer: _PhaseTimer) -> np.ndarray:
        """Compute a prompt in chunks and hand its cache over to the decode device."""
        capacity = min(len(ids) + new_tokens, self.bundle.context_length)
        if self._cache is None:
            self._cache = self.bundle.new_cache(capacity)
        self._cache.clear()
        self._cache.reserve(capacity)
        self._prefill.reset(self._cache)
        before = self._prefill.handover_s + self._decode.handover_s
        scores = np.empty(0, np.float32)
        array = np.asarray(ids, np.int64)
        for start in range(0, len(ids), self._chunk_tokens):
            scores = self._prefill.forward(array[start : start + self._chunk_tokens], start)
        if self._is_split:
            self._decode.continue_from(self._cache)
        timer.prompt_done(self._prefill.handover_s + self._decode.handover_s - before)
        return scores

    def _stats(self, ids: Sequence[int], answer: AnswerText, timer: _PhaseTimer) -> GenerationStats:
        return GenerationStats(
            prefill=self._prefill.device.id,
            decode=self._decode.device.id,
            prompt_tokens=len(ids),
            new_tokens=len(answer.ids),
            load_s=self.load_s,
            prefill_s=timer.prefill_s,
            kv_s=timer.kv_s,
            kv_bytes=self.bundle.cache_bytes_per_token * len(ids) if self._is_split else 0,
            decode_s=timer.decode_s,
            end_to_end_s=timer.prefill_s + timer.kv_s + timer.decode_s,
            weights_copies=2 if self._is_split else 1,
        )
