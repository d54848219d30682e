"""Writes an answer token by token: prefill on one device, decode on the same or on another.

A `LanguageSession` holds a model loaded for one pair of devices. The tokens of a prompt are computed in chunks by the
prefill device, the KV cache changes hands once, and the decode device computes one token at a time from then on.
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
from .answer_text import Answer, check_prompt, encode_prompt
from .kv_cache import KvCache
from .runners import Runner, load_runner
from .sampling import Sampler, SamplingOptions
from .tokenizer import Tokenizer

DEFAULT_CHUNK_TOKENS = 2048
"""Tokens of a prompt computed at once: bounds the memory that activations take."""


@dataclass(frozen=True)
class GenerationStats:
    """What one answer took, measured."""

    prefill: str
    """Device id."""
    decode: str
    prompt_tokens: int
    new_tokens: int
    load_s: float
    prefill_s: float
    """All of the prompt, up to its scores; handing over is not in it."""
    kv_s: float
    """Copying keys and values between the devices."""
    kv_bytes: int
    """What was copied; 0 where one device does both."""
    decode_s: float
    """The tokens after the first."""
    end_to_end_s: float
    """From token ids to the last token; loading is not in it."""
    weights_copies: int
    """How many engines hold the weights in memory, each in a layout of its own."""

    @property
    def prefill_tok_s(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tok_s(self) -> float:
        """New tokens a second, of those after the first."""
        return (self.new_tokens - 1) / self.decode_s if self.decode_s and self.new_tokens > 1 else 0.0


@dataclass(frozen=True)
class Generation:
    """An answer."""

    text: str
    token_ids: tuple[int, ...]
    stats: GenerationStats
    finish: str
    """Why it ended: ``eos``, ``stop``, ``length`` or ``context``."""


class _Clock:
    """When the parts of one answer were done."""

    def __init__(self) -> None:
        self._begun = self._prompt_done = self._last = time.perf_counter()
        self.kv_s = 0.0

    def begin(self) -> None:
        self._begun = time.perf_counter()

    def prefilled(self, kv_s: float) -> None:
        self._prompt_done = self._last = time.perf_counter()
        self.kv_s = kv_s

    def token(self) -> None:
        self._last = time.perf_counter()

    @property
    def prefill_s(self) -> float:
        return self._prompt_done - self._begun - self.kv_s

    @property
    def decode_s(self) -> float:
        return self._last - self._prompt_done


class LanguageSession:
    """A language model loaded on a prefill and a decode device; a context manager.

    Parameters
    ----------
    bundle : Bundle
    prefill, decode : Device
        May be the same; the model is then loaded once.
    threads : int, optional
        Computing threads of each engine; None = the engine's default.
    precision : {"fast", "float32"}
        ``float32`` computes in float32 throughout, as a reference.
    chunk_tokens : int
        Tokens of a prompt computed at once.
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
    ) -> None:
        begun = time.perf_counter()
        if chunk_tokens < 1:
            raise InvalidInput(f"chunk_tokens is {chunk_tokens}", remedy="give 1 or more")
        self.bundle = bundle
        self.tokenizer = Tokenizer.load(bundle.folder)
        self._chunk_tokens = chunk_tokens
        self._splits = prefill.id != decode.id
        options = {"threads": threads, "precision": precision}
        self._prefill: Runner = load_runner(bundle, prefill, decodes=not self._splits, share=self._splits, **options)  # type: ignore[arg-type]
        self._decode: Runner = self._prefill
        if self._splits:
            self._decode = load_runner(bundle, decode, decodes=True, share=False, **options)  # type: ignore[arg-type]
        self._cache: KvCache | None = None
        self.load_s = time.perf_counter() - begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the devices' memory back."""
        self._prefill.close()
        self._decode.close()
        self._cache = None

    @property
    def decode_runner(self) -> Runner:
        """What computes single tokens, for measurements below this level."""
        return self._decode

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 64,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        chat: bool = True,
        ignore_eos: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Answer a prompt.

        Parameters
        ----------
        prompt : str or sequence of int
            Text, or token ids as they are.
        max_new_tokens : int
        sampling : SamplingOptions, optional
            None = greedy.
        stop : str or sequence of str
            Texts that end the answer; they are not part of it.
        chat : bool
            Put text into the model's chat format.
        ignore_eos : bool
            Go on after the model has ended its answer, for measurements.
        on_text : callable, optional
            Called with each piece of text as it is made.

        Raises
        ------
        InvalidInput
            For an empty prompt, or one with ids that the model does not have.
        ContextExceeded
            Where prompt and answer do not fit into the model's context.
        """
        ids = encode_prompt(self.tokenizer, prompt, chat=chat) if isinstance(prompt, str) else list(prompt)
        answer = Answer(self.tokenizer, stop, on_text)
        clock = _Clock()
        finish = ""
        for token in self._tokens(ids, max_new_tokens, sampling or SamplingOptions(), clock):
            if token in self.tokenizer.eos_ids and not ignore_eos:
                finish = "eos"
                break
            if answer.push(token):
                finish = "stop"
                break
        answer.finish()
        full = len(ids) + len(answer.ids) >= self.bundle.context_length
        finish = finish or ("context" if full and len(answer.ids) < max_new_tokens else "length")
        return Generation(answer.text, tuple(answer.ids), self._stats(ids, answer, clock), finish)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 64,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        chat: bool = True,
    ) -> Iterator[str]:
        """Pieces of the answer's text as they are made; see `generate`."""
        ids = encode_prompt(self.tokenizer, prompt, chat=chat) if isinstance(prompt, str) else list(prompt)
        pieces: list[str] = []
        answer = Answer(self.tokenizer, stop, pieces.append)
        for token in self._tokens(ids, max_new_tokens, sampling or SamplingOptions(), _Clock()):
            ended = token in self.tokenizer.eos_ids or answer.push(token)
            yield from pieces
            pieces.clear()
            if ended:
                break
        answer.finish()
        yield from pieces

    def scores(self, ids: Sequence[int], following: Sequence[int]) -> np.ndarray:
        """Scores after a prompt and after each of the tokens that follow it, whatever the model would have chosen.

        Parameters
        ----------
        ids : sequence of int
            The prompt, computed by the prefill device.
        following : sequence of int
            Tokens put in one by one on the decode device.

        Returns
        -------
        numpy.ndarray
            float32 [1 + len(following), vocabulary].
        """
        clock = _Clock()
        rows = [self._prefill_scores(list(ids), len(following) + 1, clock).copy()]
        for at, token in enumerate(following):
            rows.append(self._decode.forward(np.array([token]), len(ids) + at).copy())
        return np.stack(rows)

    def _tokens(self, ids: list[int], most: int, sampling: SamplingOptions, clock: _Clock) -> Iterator[int]:
        """New tokens; stops after `most`, or where the context is full."""
        if most < 1:
            raise InvalidInput(f"max_new_tokens is {most}", remedy="ask for 1 or more")
        clock.begin()
        scores = self._prefill_scores(ids, most, clock)
        sampler = Sampler(sampling, ids)
        position = len(ids)
        for count in range(1, most + 1):
            token = sampler.choose(scores)
            clock.token()
            yield token
            if count == most or position == self.bundle.context_length:
                return
            scores = self._decode.forward(np.array([token]), position)
            position += 1

    def _prefill_scores(self, ids: list[int], new_tokens: int, clock: _Clock) -> np.ndarray:
        """Compute a prompt in chunks and hand its cache to the decode device."""
        limit = self.bundle.context_length
        check_prompt(self.bundle, ids)
        cache = self._room_for(min(len(ids) + new_tokens, limit))
        self._prefill.reset(cache)
        before = self._prefill.handover_s + self._decode.handover_s
        scores = np.empty(0, np.float32)
        array = np.asarray(ids, np.int64)
        for start in range(0, len(ids), self._chunk_tokens):
            scores = self._prefill.forward(array[start : start + self._chunk_tokens], start)
        if self._splits:
            self._decode.take(cache)
        clock.prefilled(self._prefill.handover_s + self._decode.handover_s - before)
        return scores

    def _room_for(self, tokens: int) -> KvCache:
        bundle = self.bundle
        if self._cache is None:
            self._cache = KvCache(bundle.layers, bundle.kv_heads, bundle.head_dim, bundle.context_length, tokens)
        self._cache.clear()
        self._cache.reserve(tokens)
        return self._cache

    def _stats(self, ids: list[int], answer: Answer, clock: _Clock) -> GenerationStats:
        return GenerationStats(
            prefill=self._prefill.device.id,
            decode=self._decode.device.id,
            prompt_tokens=len(ids),
            new_tokens=len(answer.ids),
            load_s=self.load_s,
            prefill_s=clock.prefill_s,
            kv_s=clock.kv_s,
            kv_bytes=self.bundle.cache_bytes_per_token * len(ids) if self._splits else 0,
            decode_s=clock.decode_s,
            end_to_end_s=clock.prefill_s + clock.kv_s + clock.decode_s,
            weights_copies=2 if self._splits else 1,
        )
