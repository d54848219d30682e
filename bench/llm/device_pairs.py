"""Compares the scores of all pairs of devices with the CPU's in float32, and times their KV-cache hand-over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trisect.llm.bundle import Bundle
from trisect.llm.gate.numeric_gate import load_gated_runner
from trisect.llm.gate.score_check import kl_divergence
from trisect.llm.generate import open_bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners.static_loading import FixedShapes
from trisect.runtime.device import Device, Reality
from trisect.runtime.engines import find_devices
from trisect.runtime.progress import Progress

_REFERENCE = "cpu:ort"


@dataclass(frozen=True)
class PairAgreement:
    """Scores of a pair of devices beside those of the CPU in float32, teacher-forced."""

    prefill: str
    decode: str
    prefill_reality: Reality
    decode_reality: Reality
    mean_kl: float
    """Kullback-Leibler divergence of the distributions over the next token, in nats."""
    worst_kl: float
    same_tokens: float
    """Share of positions with the same most likely token."""
    positions: int
    kv_bytes: int
    """Size of the rows that are handed over: those of the prompt only."""
    kv_s: float
    cached_tokens: int
    """Of a second prompt, which continues the first and its answer: not computed again."""


@dataclass(frozen=True)
class StepTime:
    """Median time of a token on one device, with room for some number of tokens."""

    device: str
    reality: Reality
    capacity: int
    step_s: float


def compare_pairs(
    model: str, devices: str, *, prompt_tokens: int, new_tokens: int, precision: str, progress: Progress
) -> list[PairAgreement]:
    """Compare every pair of some devices on one prompt of random tokens.

    Parameters
    ----------
    devices : str
        Ids or kinds, comma-separated.
    precision : {"fast", "float32"}
        Of the compared pairs; the reference is float32.
    """
    reference = open_bundle(model, precision="float32", progress=progress)
    ids = np.random.default_rng(0).integers(0, reference.vocab, prompt_tokens + new_tokens).tolist()
    prompt, following = ids[:prompt_tokens], ids[prompt_tokens:]
    host = find_devices(_REFERENCE)[0]
    with LanguageSession(reference, host, host, precision="float32") as session:
        expected = session.scores(prompt, following)
    bundle = open_bundle(model, precision=precision, progress=progress)
    compared = find_devices(devices)
    pairs = [(prefill, decode) for prefill in compared for decode in compared]
    agreements = []
    for at, (prefill, decode) in enumerate(pairs):
        progress(at, len(pairs), f"{prefill.id} -> {decode.id}")
        fixed = FixedShapes(2 * len(ids), progress=progress)
        with LanguageSession(bundle, prefill, decode, precision=precision, fixed=fixed, keeps_cache=True) as session:
            agreements.append(_agreement(session, prompt, following, expected, (prefill, decode)))
    return agreements


def _agreement(
    session: LanguageSession,
    prompt: list[int],
    following: list[int],
    expected: np.ndarray,
    pair: tuple[Device, Device],
) -> PairAgreement:
    scores = session.scores(prompt, following)
    divergences = [kl_divergence(*rows) for rows in zip(expected, scores, strict=True)]
    answer = session.generate(prompt[::-1], max_new_tokens=4, ignore_eos=True)
    longer = [*prompt[::-1], *answer.token_ids, *following]
    second = session.generate(longer, max_new_tokens=2, ignore_eos=True)
    prefill, decode = pair
    return PairAgreement(
        prefill=prefill.id,
        decode=decode.id,
        prefill_reality=prefill.reality,
        decode_reality=decode.reality,
        mean_kl=float(np.mean(divergences)),
        worst_kl=max(divergences),
        same_tokens=float(np.mean(expected.argmax(-1) == scores.argmax(-1))),
        positions=len(expected),
        kv_bytes=answer.stats.kv_bytes,
        kv_s=answer.stats.kv_s,
        cached_tokens=second.stats.cached_tokens,
    )


def time_steps(
    bundle: Bundle, device: Device, capacities: Sequence[int], *, filled: int, steps: int, precision: str
) -> list[StepTime]:
    """Time single tokens with caches of several capacities on one device, in turns."""
    ids = np.random.default_rng(0).integers(0, bundle.vocab, filled + steps)
    runners = {}
    times_s: dict[int, list[float]] = {capacity: [] for capacity in capacities}
    try:
        for capacity in capacities:
            runners[capacity] = load_gated_runner(
                bundle, device, precision=precision, decodes=True, exports_cache=False, fixed=FixedShapes(capacity)
            )
            runners[capacity].reset(bundle.new_cache(capacity))
            runners[capacity].forward(ids[:filled], 0)
            runners[capacity].forward(ids[filled : filled + 1], filled)
        for at in range(filled + 1, filled + steps):
            for capacity, runner in runners.items():
                begin = time.perf_counter()
                runner.forward(ids[at : at + 1], at)
                times_s[capacity].append(time.perf_counter() - begin)
    finally:
        for runner in runners.values():
            runner.close()
    return [StepTime(device.id, device.reality, capacity, statistics.median(times_s[capacity])) for capacity in runners]
