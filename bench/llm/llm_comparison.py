"""Compares every device and pair of devices, and other systems, at prefill and decode of a language model.

Reported are medians, each with its spread, beside the predictions, the machine's limits, the throughput of batches, and
the requests for which a pair of devices is faster than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trisect.llm.bundle import Bundle
from trisect.llm.generate import open_bundle
from trisect.llm.phases.device_choice import choose_devices, measured_phases
from trisect.llm.phases.fitting_choice import DeviceChoice
from trisect.llm.phases.phase_prediction import PhasePrediction
from trisect.profiles.measuring.machine_limits import peak_flops, read_bandwidth_bytes_per_s
from trisect.runtime.device import Device, Reality
from trisect.runtime.engines import capabilities, find_hardware
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.progress import Progress

from ..peers import PeerTiming
from .batch_throughput import bench_batches
from .crossover import Crossover, crossover
from .decode_overhead import decode_overhead
from .llm_contenders import LlmContender, list_contenders, measure_interleaved, random_prompts, timing_summary
from .llm_result import AutoChoice, LlmBench, LlmRun, MachineUtilisation


def bench_llm(
    model: str,
    devices: str = "auto",
    *,
    prompt_tokens: Sequence[int] = (512,),
    new_tokens: int = 64,
    batches: Sequence[int] = (),
    rounds: int = 7,
    threads: int | None = None,
    kv_dtype: str = "auto",
    progress: Progress,
) -> LlmBench:
    """Compare devices, pairs of devices and other systems.

    Parameters
    ----------
    model : str
        A GGUF file, a model folder, or a Hugging Face id.
    devices : str
        Device ids or kinds, comma-separated; ``auto`` leaves out simulators and software drivers.
    prompt_tokens : sequence of int
        Prompt lengths; `LlmBench.ratio` is of the last.
    batches : sequence of int
        Batch sizes to measure each device alone at, with prompts of the last length.
    rounds : int
        Number of measurements, after one warm-up.
    threads : int, optional
        Compute threads of every contender.
    kv_dtype : str
        Dtype of the KV cache on trisect's devices; see `open_bundle`.

    Raises
    ------
    TrisectError
        If the model cannot be read or no device can run it. A peer that fails is left out, with a note.
    """
    bundle = open_bundle(model, kv_dtype=kv_dtype, progress=progress)
    choices = [
        choose_devices(
            bundle, devices, devices, prompt_tokens=n, new_tokens=new_tokens, threads=threads, progress=progress
        )
        for n in prompt_tokens
    ]
    able = {prediction.decode for prediction in choices[0].predictions} or {choices[0].decode.id}
    compared = [device for device in find_hardware(devices) if device.id in able]
    realities = {device.id: device.reality for device in compared}
    notes = list(choices[0].notes)
    measured = measure_interleaved(
        list_contenders(model, bundle, compared, notes, context_tokens=max(prompt_tokens) + new_tokens),
        random_prompts(bundle.vocab, prompt_tokens),
        new_tokens=new_tokens,
        rounds=rounds,
        threads=threads,
        notes=notes,
        progress=progress,
    )
    runs = [
        _summarise(contender, n, new_tokens, timings[n], measured.rss_bytes[contender], bundle, choice, realities)
        for n, choice in zip(prompt_tokens, choices, strict=True)
        for contender, timings in measured.timings.items()
    ]
    longest = prompt_tokens[-1]
    progress(1, 1, "overhead")
    hosts = (device for device in compared if not capabilities(device).own_memory)
    in_place = next((device for device in hosts if bundle.graph_for(device).cache == "in-place"), None)
    overhead = None
    if in_place is not None:
        overhead = decode_overhead(
            bundle, in_place, prompt_tokens=longest, new_tokens=new_tokens, rounds=rounds, threads=threads
        )
    points = bench_batches(
        bundle, compared, batches, prompt_tokens=longest, threads=threads, notes=notes, progress=progress
    )
    progress(1, 1, "the machine's limits")
    own = [run for run in runs if run.prompt_tokens == longest and run.peer is None]
    best_single_s = min(run.end_to_end_s for run in own if run.prefill == run.decode)
    best_pair_s = min((run.end_to_end_s for run in own if run.prefill != run.decode), default=float("nan"))
    return LlmBench(
        model=bundle.name,
        threads=threads,
        rounds=rounds,
        runs=tuple(runs),
        choices=tuple(_auto_choice(choice, n, runs) for n, choice in zip(prompt_tokens, choices, strict=True)),
        limits=_utilisation(bundle, own, find_hardware("auto"), threads),
        overhead=overhead,
        best_single_s=best_single_s,
        best_pair_s=best_pair_s,
        ratio=best_single_s / best_pair_s,
        notes=tuple(notes),
        crossover=_crossover(bundle, compared, threads, progress),
        batches=points,
    )


def _crossover(bundle: Bundle, devices: Sequence[Device], threads: int | None, progress: Progress) -> Crossover:
    # The phases were measured for the predictions: this reads them from disk.
    by_id = {device.id: device for device in devices}
    profile, _ = measured_phases(bundle, by_id, threads=threads, precision="fast", progress=progress)
    return crossover(profile, context_length=bundle.context_length, cache_bytes=bundle.cache_bytes)


def _summarise(
    contender: LlmContender,
    prompt_tokens: int,
    new_tokens: int,
    timings: Sequence[PeerTiming],
    rss_bytes: int,
    bundle: Bundle,
    choice: DeviceChoice,
    realities: Mapping[str, Reality],
) -> LlmRun:
    medians = timing_summary(timings)
    is_split = contender.prefill != contender.decode
    predicted: PhasePrediction | None = None
    if contender.label is None:
        pair = (contender.prefill, contender.decode)
        predicted = next((p for p in choice.predictions if (p.prefill, p.decode) == pair), None)
    return LlmRun(
        peer=contender.label,
        prefill=contender.prefill,
        decode=contender.decode,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        prefill_tok_s=prompt_tokens / medians.prefill_s,
        decode_tok_s=(new_tokens - 1) / medians.decode_s if new_tokens > 1 else 0.0,
        kv_bytes=bundle.cache_bytes(prompt_tokens) if is_split else 0,
        kv_s=medians.kv_s,
        end_to_end_s=medians.end_to_end_s,
        spread=medians.spread,
        rss_bytes=rss_bytes,
        predicted_s=predicted.end_to_end_s if predicted else None,
        predicted_prefill_s=predicted.prefill_s if predicted else None,
        predicted_decode_s=predicted.decode_s if predicted else None,
        prefill_reality=realities.get(contender.prefill, "hardware"),
        decode_reality=realities.get(contender.decode, "hardware"),
    )


def _auto_choice(choice: DeviceChoice, prompt_tokens: int, runs: Sequence[LlmRun]) -> AutoChoice:
    measured = {
        (run.prefill, run.decode): run.end_to_end_s
        for run in runs
        if run.peer is None and run.prompt_tokens == prompt_tokens
    }
    pair = (choice.prefill.id, choice.decode.id)
    return AutoChoice(prompt_tokens, *pair, chosen_s=measured[pair], best_s=min(measured.values()))


def _utilisation(
    bundle: Bundle, runs: Sequence[LlmRun], devices: Sequence[Device], threads: int | None
) -> MachineUtilisation:
    bandwidth = read_bandwidth_bytes_per_s(threads)
    peak = max(peak_flops(device, LoadOptions(threads=threads, precision="fast")) for device in devices)
    context = runs[0].prompt_tokens + runs[0].new_tokens // 2
    decode_bytes = bundle.decode_bytes_per_token + bundle.cache_bytes(context)
    flops = float(bundle.flops_per_token)
    return MachineUtilisation(
        bandwidth,
        peak,
        decode_bytes,
        flops,
        decode_share=max(run.decode_tok_s for run in runs) * decode_bytes / bandwidth,
        prefill_share=max(run.prefill_tok_s for run in runs) * flops / peak,
    )
