"""Compares chosen pairs of devices with other systems on one language model: speed of both phases, and cold start.

Unlike `bench_llm` it measures only the pairs that it is asked for and fits no predictions, so that several gigabytes of
weights are loaded a few times only. One contender's process is loaded while the others are idle, and they take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from trisect.llm.generate import open_bundle
from trisect.profiles.measuring.machine_limits import read_bandwidth_bytes_per_s
from trisect.runtime.errors import TrisectError
from trisect.runtime.progress import Progress

from .llm_contenders import LlmContender, list_peers, measure_interleaved, random_prompts, timing_summary
from .peer_process import PeerProcess

_COLD_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class PeerRun:
    """Medians of one contender at one prompt length."""

    system: str
    """A peer's name, or a pair of devices of trisect."""
    prompt_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    end_to_end_s: float
    spread: float
    """Interquartile range of `end_to_end_s` as a fraction of the median."""
    rss_bytes: int
    """Largest resident memory of its process."""
    read_share: float | None
    """Weights and cache read for each decoded token, as a fraction of the memory's read bandwidth; trisect only."""


@dataclass(frozen=True)
class ColdStart:
    """A new process that loads a model and answers: medians."""

    system: str
    first_token_s: float
    """From the start of the process to the first token of an answer to a prompt of 16 tokens; the file is cached."""


@dataclass(frozen=True)
class PeerComparison:
    """A comparison with other systems."""

    model: str
    new_tokens: int
    rounds: int
    threads: int | None
    read_bandwidth_bytes_per_s: float
    decode_bytes_per_token: int
    runs: tuple[PeerRun, ...]
    cold_starts: tuple[ColdStart, ...]
    notes: tuple[str, ...]


def compare_with_peers(
    model: str,
    pairs: Sequence[tuple[str, str]],
    *,
    prompt_tokens: Sequence[int],
    new_tokens: int,
    rounds: int,
    cold_rounds: int = 0,
    threads: int | None = None,
    progress: Progress,
) -> PeerComparison:
    """Measure pairs of devices beside the installed peers.

    Parameters
    ----------
    model : str
        A GGUF file: all contenders read it.
    pairs : sequence of tuple of str
        Prefill and decode device ids of trisect's contenders.
    rounds, cold_rounds : int
        Numbers of measurements: of answers, after one warm-up, and of cold starts.

    Raises
    ------
    TrisectError
        If the model cannot be read. A contender that fails is left out, with a note.
    """
    bundle = open_bundle(model, progress=progress)
    notes: list[str] = []
    contenders = [LlmContender(None, "_pair", bundle.folder, prefill, decode) for prefill, decode in pairs]
    contenders += list_peers(model, bundle, notes)
    cold = _cold_starts(contenders, bundle.vocab, cold_rounds, threads, notes, progress)
    measured = measure_interleaved(
        contenders,
        random_prompts(bundle.vocab, prompt_tokens),
        new_tokens=new_tokens,
        rounds=rounds,
        threads=threads,
        notes=notes,
        progress=progress,
    )
    progress(1, 1, "the machine's limits")
    bandwidth = read_bandwidth_bytes_per_s(threads)
    runs = []
    for contender, by_length in measured.timings.items():
        for length, timings in by_length.items():
            medians = timing_summary(timings)
            decode_tok_s = (new_tokens - 1) / medians.decode_s
            read_bytes = bundle.decode_bytes_per_token + bundle.cache_bytes(length + new_tokens // 2)
            runs.append(
                PeerRun(
                    system=contender.name,
                    prompt_tokens=length,
                    prefill_tok_s=length / medians.prefill_s,
                    decode_tok_s=decode_tok_s,
                    end_to_end_s=medians.end_to_end_s,
                    spread=medians.spread,
                    rss_bytes=measured.rss_bytes[contender],
                    read_share=decode_tok_s * read_bytes / bandwidth if contender.label is None else None,
                )
            )
    return PeerComparison(
        model=bundle.name,
        new_tokens=new_tokens,
        rounds=rounds,
        threads=threads,
        read_bandwidth_bytes_per_s=bandwidth,
        decode_bytes_per_token=bundle.decode_bytes_per_token,
        runs=tuple(runs),
        cold_starts=cold,
        notes=tuple(notes),
    )


def _cold_starts(
    contenders: Sequence[LlmContender],
    vocab: int,
    rounds: int,
    threads: int | None,
    notes: list[str],
    progress: Progress,
) -> tuple[ColdStart, ...]:
    times: dict[str, list[float]] = {}
    (prompt,) = random_prompts(vocab, (_COLD_PROMPT_TOKENS,))
    for round_ in range(rounds):
        for at, contender in enumerate(contenders):
            progress(round_ * len(contenders) + at, rounds * len(contenders), f"cold start of {contender.name}")
            begin = time.perf_counter()
            try:
                with PeerProcess(contender.peer, contender.model, threads, contender.settings) as process:
                    process.run(prompt, 1)
                    times.setdefault(contender.name, []).append(time.perf_counter() - begin)
            except TrisectError as error:
                notes.append(f"{contender.name} has no cold start: {error.message}")
    return tuple(ColdStart(name, statistics.median(measured)) for name, measured in times.items())
