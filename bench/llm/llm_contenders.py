"""Contenders of a comparison of language models, each in a process of its own, measured interleaved.

The contenders take turns within each prompt, so that a temporary slowdown of the machine affects all of them. In its
turn each first gives a short answer that is not counted: that one finds memory and caches as another contender left
them, which no user of a single system experiences.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from trisect.llm.bundle import Bundle
from trisect.llm.running.kv_layer import KvChoice
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineFailed, TrisectError
from trisect.runtime.progress import Progress

from ..peers import PeerTiming, external_peers, is_installed, peer_source
from .peer_process import PeerProcess

_WARMUP_TOKENS = 4


@dataclass(frozen=True)
class LlmContender:
    """What a comparison runs: trisect on a pair of devices, or another system."""

    label: str | None
    """See `LlmRun.peer`."""
    peer: str
    """Name of the file in `trisect.bench.peers`."""
    model: str
    prefill: str
    decode: str
    shared_graph: bool = False
    """All engines run the same graph, as if the model were a single file."""
    kv_dtype: KvChoice = "auto"
    """Of the KV cache, for trisect's devices."""
    context_tokens: int | None = None
    """Tokens of the longest request, for devices of fixed shapes."""

    @property
    def name(self) -> str:
        """Name for messages."""
        if self.peer == self.label:
            return self.peer
        devices = self.prefill if self.prefill == self.decode else f"{self.prefill} -> {self.decode}"
        return f"{self.label or 'trisect'} ({devices})"

    @property
    def settings(self) -> dict[str, Any]:
        """What its process is started with."""
        return {
            "prefill": self.prefill,
            "decode": self.decode,
            "shared_graph": self.shared_graph,
            "kv_dtype": self.kv_dtype,
            "context_tokens": self.context_tokens,
        }


@dataclass(frozen=True)
class LlmTimings:
    """Measurements of the contenders that did not fail."""

    timings: Mapping[LlmContender, Mapping[int, Sequence[PeerTiming]]]
    """Contender -> prompt length -> one timing per round."""
    rss_bytes: Mapping[LlmContender, int]


@dataclass(frozen=True)
class TimingSummary:
    """Medians of the times of several answers, and how much these differ."""

    prefill_s: float
    kv_s: float
    decode_s: float
    end_to_end_s: float
    spread: float
    """Interquartile range of the end-to-end times, relative to their median."""


def timing_summary(timings: Sequence[PeerTiming]) -> TimingSummary:
    """Return the medians of the times of answers to one prompt."""
    prefill_s, kv_s, decode_s, end_to_end_s = (
        statistics.median(getattr(timing, part) for timing in timings)
        for part in ("prefill_s", "kv_s", "decode_s", "end_to_end_s")
    )
    low, high = np.percentile([timing.end_to_end_s for timing in timings], (25, 75))
    return TimingSummary(prefill_s, kv_s, decode_s, end_to_end_s, float(high - low) / end_to_end_s)


def list_contenders(
    model: str, bundle: Bundle, devices: Sequence[Device], notes: list[str], *, context_tokens: int | None = None
) -> list[LlmContender]:
    """Return all pairs of devices, each device with the graph that all engines share, and the installed peers.

    Parameters
    ----------
    model : str
        As the user named it.
    devices : sequence of Device
        Those that can run the model.
    notes : list of str
        Gets a line for each peer that is left out.
    context_tokens : int, optional
        Tokens of the longest request, for devices of fixed shapes.
    """
    contenders = [
        LlmContender(None, "_pair", bundle.folder, p.id, d.id, kv_dtype=bundle.kv_dtype, context_tokens=context_tokens)
        for p in devices
        for d in devices
    ]
    if len(bundle.graphs) > 1:
        contenders += [
            LlmContender("one graph for all engines", "_pair", bundle.folder, device.id, device.id, shared_graph=True)
            for device in devices
            if bundle.graph_for(device).cache == "grown"  # the in-place one is the shared graph
        ]
    return contenders + list_peers(model, bundle, notes)


def list_peers(model: str, bundle: Bundle, notes: list[str]) -> list[LlmContender]:
    """Return the installed peers that can read a model; see `list_contenders`."""
    contenders = []
    for name in external_peers():
        if not is_installed(name):
            notes.append(f"{name} is not installed: pip install 'trisect[peers]'")
            continue
        try:
            contenders.append(LlmContender(name, name, peer_source(name, model, bundle), "cpu", "cpu"))
        except TrisectError as error:
            notes.append(f"{name} is left out: {error.message}")
    return contenders


def measure_interleaved(
    contenders: Sequence[LlmContender],
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    rounds: int,
    threads: int | None,
    notes: list[str],
    progress: Progress,
) -> LlmTimings:
    """Run every prompt on every contender, in rounds after one warm-up round.

    Parameters
    ----------
    prompts : sequence of sequence of int
        Token ids; each of another length.
    notes : list of str
        Gets a line for each contender that fails, and is left out then.
    """
    timings: dict[LlmContender, dict[int, list[PeerTiming]]] = {}
    total = len(contenders) * (1 + (rounds + 1) * len(prompts))
    done = 0
    with ExitStack() as stack:
        processes: dict[LlmContender, PeerProcess] = {}
        for contender in contenders:
            progress(done := done + 1, total, f"loading {contender.name}")
            try:
                process = PeerProcess(contender.peer, contender.model, threads, contender.settings)
                processes[contender] = stack.enter_context(process)
            except TrisectError as error:
                notes.append(f"{contender.name} is left out: {error.message}")
        for round_ in range(-1, rounds):  # the first is the warm-up
            for prompt in prompts:
                for contender in list(processes):
                    progress(done := done + 1, total, f"{contender.name}, {len(prompt)} tokens")
                    try:
                        processes[contender].run(list(prompt), _WARMUP_TOKENS)
                        timing = processes[contender].run(list(prompt), new_tokens)
                    except EngineFailed as error:
                        notes.append(f"{contender.name} is left out: {error.message}")
                        del processes[contender]
                        continue
                    if round_ >= 0:
                        timings.setdefault(contender, {}).setdefault(len(prompt), []).append(timing)
        rss_bytes = {contender: process.rss_bytes for contender, process in processes.items()}
    return LlmTimings({contender: timings[contender] for contender in processes}, rss_bytes)


def random_prompts(vocab: int, lengths: Sequence[int]) -> list[list[int]]:
    """Return one prompt of random token ids for each length."""
    return [np.random.default_rng(n).integers(0, vocab, n).tolist() for n in lengths]
