"""Every device and pair of devices at prefill and decode, beside other systems, on the same weights.

Each contender runs in a process of its own; they take turns, prompt by prompt, so that a machine that is slow for a
while is slow for all of them. At its turn each first answers shortly, uncounted: a first answer finds the memory
and the caches as another left them, which no user of one system ever sees. Medians are reported, each with its spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from trisect.llm.bundle import Bundle
from trisect.llm.generate import open_bundle
from trisect.llm.phases.device_choice import DeviceChoice, choose_devices, measured_phases
from trisect.llm.phases.phase_prediction import PhasePrediction
from trisect.profiles.measuring.machine_limits import peak_flops, read_bandwidth_bytes_per_s
from trisect.runtime.device import Device
from trisect.runtime.engines import find_hardware
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed, TrisectError
from trisect.runtime.progress import Progress

from ..peers import Timing, external, is_installed, source
from .batch_throughput import BatchPoint, bench_batches
from .crossover import Crossover, crossover
from .decode_overhead import decode_overhead
from .peer_process import PeerProcess

_WARM_TOKENS = 4


@dataclass(frozen=True)
class LlmRun:
    """Medians of one contender at one length."""

    peer: str | None
    """Another system's name, or what is special of ours; None = trisect as it is."""
    prefill: str
    decode: str
    prompt_tokens: int
    new_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    kv_bytes: int
    kv_s: float
    end_to_end_s: float
    spread: float
    """Interquartile range of `end_to_end_s` as a share of it."""
    rss_bytes: int
    """Resident memory of its process, the largest seen."""
    predicted_s: float | None
    """End to end; None where nothing predicts it."""
    predicted_prefill_s: float | None
    predicted_decode_s: float | None


@dataclass(frozen=True)
class AutoChoice:
    """What ``auto`` chose at one length, beside the best that was measured."""

    prompt_tokens: int
    prefill: str
    decode: str
    chosen_s: float
    best_s: float

    @property
    def regret(self) -> float:
        """How much slower the choice is than the best: chosen / best - 1."""
        return self.chosen_s / self.best_s - 1


@dataclass(frozen=True)
class Limits:
    """The machine's limits, measured, and the share of them that was reached."""

    read_bandwidth_bytes_per_s: float
    peak_flops: float
    """Of a large matrix product on the best device, in its quickest precision."""
    decode_bytes_per_token: int
    """Weights and cache, at the middle of the answer."""
    prefill_flops_per_token: float
    decode_share: float
    prefill_share: float


@dataclass(frozen=True)
class LlmBench:
    """A comparison."""

    model: str
    threads: int | None
    rounds: int
    runs: tuple[LlmRun, ...]
    choices: tuple[AutoChoice, ...]
    limits: Limits
    overhead: float | None
    """Of trisect over a bare loop on the same engine, as a share of decode; None where no device has such a loop."""
    best_single_s: float
    best_pair_s: float
    ratio: float
    """Best single over best pair, at the last length."""
    notes: tuple[str, ...]
    crossover: Crossover | None = None
    """Both phases' curves on every device, and where a pair of devices pays; None where nobody drew it."""
    batches: tuple[BatchPoint, ...] = ()
    """Both phases over the size of the batch, on every device."""


@dataclass(frozen=True)
class _Contender:
    label: str | None
    peer: str
    model: str
    prefill: str
    decode: str
    shared_graph: bool = False


def bench_llm(
    model: str,
    *,
    prompt_tokens: Sequence[int] = (512,),
    new_tokens: int = 64,
    batches: Sequence[int] = (),
    rounds: int = 7,
    threads: int | None = None,
    progress: Progress,
) -> LlmBench:
    """Compare devices, pairs and other systems.

    Parameters
    ----------
    model : str
        A GGUF file, a model folder, or a Hugging Face id.
    prompt_tokens : sequence of int
        Lengths of the prompt; the ratio is of the last.
    new_tokens : int
    batches : sequence of int
        Sizes of batch to measure each device alone at, with prompts of the last length.
    rounds : int
        How often everything is measured, after one warm-up.
    threads : int, optional
        Computing threads of every contender.
    progress : callable

    Raises
    ------
    TrisectError
        Where the model cannot be read or no device runs it. A peer that fails is left out, with a note.
    """
    bundle = open_bundle(model, progress=progress)
    devices = find_hardware("auto")
    choices = [
        choose_devices(bundle, prompt_tokens=n, new_tokens=new_tokens, threads=threads, progress=progress)
        for n in prompt_tokens
    ]
    able = list(dict.fromkeys(p.decode for p in choices[0].predictions))
    notes = list(choices[0].notes)
    contenders = _contenders(model, bundle, able, notes)
    timings, memory, contenders = _take_turns(
        contenders, bundle, prompt_tokens, new_tokens, rounds, threads, progress, notes
    )
    runs = [
        _run(contender, n, new_tokens, times, memory[contender], bundle, choice)
        for n, choice in zip(prompt_tokens, choices, strict=True)
        for contender in contenders
        for times in [timings[contender, n]]
    ]
    progress(1, 1, "overhead")
    in_place = next((d for d in devices if d.id in able and bundle.graph_for(d).cache == "in-place"), None)
    overhead = None
    if in_place is not None:
        overhead = decode_overhead(
            bundle, in_place, prompt_tokens=prompt_tokens[-1], new_tokens=new_tokens, rounds=rounds, threads=threads
        )
    able_devices = [d for d in devices if d.id in able]
    side_by_side = bench_batches(
        bundle, able_devices, batches, prompt_tokens=prompt_tokens[-1], threads=threads, notes=notes, progress=progress
    )
    progress(1, 1, "the machine's limits")
    last = [run for run in runs if run.prompt_tokens == prompt_tokens[-1]]
    ours = [run for run in last if run.peer is None]
    singles = [run.end_to_end_s for run in ours if run.prefill == run.decode]
    pairs = [run.end_to_end_s for run in ours if run.prefill != run.decode]
    best_single, best_pair = min(singles), min(pairs, default=float("nan"))
    return LlmBench(
        model=bundle.name,
        threads=threads,
        rounds=rounds,
        runs=tuple(runs),
        choices=tuple(_choice(choice, n, runs) for n, choice in zip(prompt_tokens, choices, strict=True)),
        limits=_limits(bundle, ours, able_devices, threads),
        overhead=overhead,
        best_single_s=best_single,
        best_pair_s=best_pair,
        ratio=best_single / best_pair,
        notes=tuple(notes),
        crossover=_crossover(bundle, able_devices, threads, progress),
        batches=side_by_side,
    )


def _crossover(bundle: Bundle, devices: Sequence[Device], threads: int | None, progress: Progress) -> Crossover:
    # Measured already, to predict what was compared: this reads what is stored.
    by_id = {device.id: device for device in devices}
    profile, _ = measured_phases(bundle, by_id, threads=threads, precision="fast", progress=progress)
    return crossover(profile, context_length=bundle.context_length, cache_bytes_per_token=bundle.cache_bytes_per_token)


def _contenders(model: str, bundle: Bundle, able: Sequence[str], notes: list[str]) -> list[_Contender]:
    found = [_Contender(None, "_pair", bundle.folder, p, d) for p in able for d in able]
    if len(bundle.graphs) > 1:
        found += [
            _Contender("one graph for all engines", "_pair", bundle.folder, device, device, shared_graph=True)
            for device in able
            if device != "cpu:ort"  # whose graph it is already
        ]
    for name in external():
        if not is_installed(name):
            notes.append(f"{name} is not installed: pip install 'trisect[peers]'")
            continue
        try:
            found.append(_Contender(name, name, source(name, model, bundle), "cpu", "cpu"))
        except TrisectError as error:
            notes.append(f"{name} is left out: {error.message}")
    return found


def _take_turns(
    contenders: Sequence[_Contender],
    bundle: Bundle,
    lengths: Sequence[int],
    new_tokens: int,
    rounds: int,
    threads: int | None,
    progress: Progress,
    notes: list[str],
) -> tuple[dict[tuple[_Contender, int], list[Timing]], dict[_Contender, int], list[_Contender]]:
    """Timings by contender and length, and memory by contender, of those that did not fail."""
    prompts = {n: np.random.default_rng(n).integers(0, bundle.vocab, n).tolist() for n in lengths}
    timings: dict[tuple[_Contender, int], list[Timing]] = {}
    total = len(contenders) * (1 + (rounds + 1) * len(lengths))
    done = 0
    with ExitStack() as stack:
        workers: dict[_Contender, PeerProcess] = {}
        for contender in contenders:
            progress(done := done + 1, total, f"loading {_name(contender)}")
            settings = {
                "prefill": contender.prefill,
                "decode": contender.decode,
                "shared_graph": contender.shared_graph,
            }
            try:
                workers[contender] = stack.enter_context(
                    PeerProcess(contender.peer, contender.model, threads, settings)
                )
            except TrisectError as error:
                notes.append(f"{_name(contender)} is left out: {error.message}")
        for round_ in range(-1, rounds):  # the first is the warm-up
            for n in lengths:
                for contender in list(workers):
                    progress(done := done + 1, total, f"{_name(contender)}, {n} tokens")
                    try:
                        workers[contender].run(prompts[n], _WARM_TOKENS)
                        timing = workers[contender].run(prompts[n], new_tokens)
                    except EngineFailed as error:
                        notes.append(f"{_name(contender)} is left out: {error.message}")
                        del workers[contender]
                        continue
                    if round_ >= 0:
                        timings.setdefault((contender, n), []).append(timing)
        memory = {contender: worker.rss_bytes for contender, worker in workers.items()}
    return timings, memory, list(workers)


def _run(
    contender: _Contender,
    prompt_tokens: int,
    new_tokens: int,
    times: Sequence[Timing],
    rss_bytes: int,
    bundle: Bundle,
    choice: DeviceChoice,
) -> LlmRun:
    prefill_s, kv_s, decode_s, whole_s = (
        statistics.median(getattr(t, field) for t in times)
        for field in ("prefill_s", "kv_s", "decode_s", "end_to_end_s")
    )
    quartiles = np.percentile([t.end_to_end_s for t in times], (25, 75))
    split = contender.prefill != contender.decode
    predicted: PhasePrediction | None = None
    if contender.label is None:
        pair = (contender.prefill, contender.decode)
        predicted = next(p for p in choice.predictions if (p.prefill, p.decode) == pair)
    return LlmRun(
        peer=contender.label,
        prefill=contender.prefill,
        decode=contender.decode,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        prefill_tok_s=prompt_tokens / prefill_s,
        decode_tok_s=(new_tokens - 1) / decode_s if new_tokens > 1 else 0.0,
        kv_bytes=bundle.cache_bytes_per_token * prompt_tokens if split else 0,
        kv_s=kv_s,
        end_to_end_s=whole_s,
        spread=float(quartiles[1] - quartiles[0]) / whole_s,
        rss_bytes=rss_bytes,
        predicted_s=predicted.end_to_end_s if predicted else None,
        predicted_prefill_s=predicted.prefill_s if predicted else None,
        predicted_decode_s=predicted.decode_s if predicted else None,
    )


def _choice(choice: DeviceChoice, prompt_tokens: int, runs: Sequence[LlmRun]) -> AutoChoice:
    measured = {
        (run.prefill, run.decode): run.end_to_end_s
        for run in runs
        if run.peer is None and run.prompt_tokens == prompt_tokens
    }
    pair = (choice.prefill.id, choice.decode.id)
    return AutoChoice(prompt_tokens, *pair, chosen_s=measured[pair], best_s=min(measured.values()))


def _limits(bundle: Bundle, runs: Sequence[LlmRun], devices: Sequence[Device], threads: int | None) -> Limits:
    bandwidth = read_bandwidth_bytes_per_s(threads)
    peak = max(peak_flops(device, LoadOptions(threads=threads, precision="fast")) for device in devices)
    context = runs[0].prompt_tokens + runs[0].new_tokens / 2
    decode_bytes = int(bundle.decode_bytes_per_token + bundle.cache_bytes_per_token * context)
    flops = float(bundle.flops_per_token)
    return Limits(
        bandwidth,
        peak,
        decode_bytes,
        flops,
        decode_share=max(run.decode_tok_s for run in runs) * decode_bytes / bandwidth,
        prefill_share=max(run.prefill_tok_s for run in runs) * flops / peak,
    )


def _name(contender: _Contender) -> str:
    where = contender.prefill if contender.prefill == contender.decode else f"{contender.prefill} -> {contender.decode}"
    return f"{contender.label or 'trisect'} ({where})" if contender.peer.startswith("_") else str(contender.label)
