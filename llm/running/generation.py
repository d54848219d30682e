"""Generates text token by token: prefill on one device, decode on the same or on another.

A `LanguageSession` holds a model loaded for one pair of devices (`DevicePair`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.errors import ContextExceeded, InvalidInput
from trisect.runtime.free_memory import return_freed_memory

from ..bundle import Bundle
from ..gate.numeric_gate import check_numbers, load_gated_runner
from ..tokenization.tokenizer import Tokenizer
from .answer_text import AnswerText
from .device_pair import DevicePair
from .generation_stats import DeviceLoss, GenerationStats, PhaseTimer
from .prompt import Prompt, tokenise
from .runners.concurrent_loading import load_concurrently
from .runners.runner import Runner
from .runners.static_loading import ANY_REQUEST, FixedShapes
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
    losses: tuple[DeviceLoss, ...] = ()
    """Devices that failed meanwhile, so that another one went on."""


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
    fixed : FixedShapes
        For devices that need fixed shapes: tokens of the longest prompt with its answer, and progress of compiling.
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
        fixed: FixedShapes = ANY_REQUEST,
    ) -> None:
        if chunk_tokens < 1:
            raise InvalidInput(f"chunk_tokens is {chunk_tokens}", remedy="give 1 or more")
        check_numbers(bundle, (prefill, decode), precision=precision)
        begin = time.perf_counter()
        self.bundle = bundle
        self._realities = {device.id: device.reality for device in (prefill, decode)}
        self.tokenizer = tokenizer or Tokenizer.load(bundle.folder)
        is_split = prefill.id != decode.id

        def loader(
            device: Device, *, decodes: bool, exports_cache: bool, prefills: bool = True
        ) -> Callable[[], Runner]:
            return lambda: load_gated_runner(
                bundle, device, threads=threads, precision=precision, decodes=decodes, exports_cache=exports_cache,
                fixed=replace(fixed, prefills=prefills),
            )  # fmt: skip

        loaders = [loader(prefill, decodes=not is_split, exports_cache=is_split)]
        if is_split:
            loaders.append(loader(decode, decodes=True, exports_cache=False, prefills=False))
        runners = load_concurrently(loaders)
        return_freed_memory()  # what engines took while they packed weights
        self._pair = DevicePair(bundle, runners[0], runners[-1], chunk_tokens=chunk_tokens, keeps_cache=keeps_cache)
        self.load_s = time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the devices' memory."""
        self._pair.close()

    @property
    def context_length(self) -> int:
        """Tokens of a prompt with its answer that the model and its devices hold."""
        return self._pair.context_length

    @property
    def decode_runner(self) -> Runner:
        """The runner that computes single tokens, for measurements of the runner alone."""
        return self._pair.decode

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
        if len(ids) > self.context_length:
            raise ContextExceeded(
                f"the prompt has {len(ids)} tokens, and its devices were loaded for {self.context_length}",
                remedy="shorten it, or load the model for a longer context",
            )
        answer = AnswerText(self.tokenizer, stop, on_text)
        losses = len(self._pair.losses)
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
        context_is_full = len(ids) + len(answer.ids) >= self.context_length
        finish = finish or ("context" if context_is_full and len(answer.ids) < max_new_tokens else "length")
        stats = self._stats(ids, answer, timer)
        if stats.kv_bytes and stats.decode_tok_s:
            self._pair.last_split = stats
        return Generation(answer.text, tuple(answer.ids), stats, finish, tuple(self._pair.losses[losses:]))

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
        so_far = list(tokenise(self.bundle, self.tokenizer, ids).ids)
        computed = self._pair.prompt(so_far, len(following) + 1)
        assert computed.scores is not None  # nothing stops it
        rows = [computed.scores.copy()]
        for token in following:
            so_far.append(token)
            rows.append(self._pair.step(so_far).copy())
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
        computed = self._pair.prompt(ids, max_new_tokens, should_stop)
        timer.prompt_done(computed.device, computed.kv_s, computed.cached_tokens)
        if computed.scores is None:
            return
        scores, so_far = computed.scores, list(ids)
        sampler = Sampler(sampling, ids)
        for count in range(1, max_new_tokens + 1):
            token = sampler.choose(scores)
            timer.token_done()
            yield token
            if count == max_new_tokens or len(so_far) == self.context_length:
                return
            so_far.append(token)
            scores = self._pair.step(so_far)

    def _stats(self, ids: Sequence[int], answer: AnswerText, timer: PhaseTimer) -> GenerationStats:
        return GenerationStats(
            prefill=timer.device,
            decode=self.decode_runner.device.id,
            prompt_tokens=len(ids),
            cached_tokens=timer.cached_tokens,
            new_tokens=len(answer.ids),
            load_s=self.load_s,
            prefill_s=timer.prefill_s,
            kv_s=timer.kv_s,
            kv_bytes=self.bundle.cache_bytes(len(ids)) if timer.device != self.decode_runner.device.id else 0,
            decode_s=timer.decode_s,
            end_to_end_s=timer.prefill_s + timer.kv_s + timer.decode_s,
            weights_copies=2 if self._pair.is_split else 1,
            prefill_reality=self._realities[timer.device],
            decode_reality=self.decode_runner.device.reality,
        )
