"""What trisect promises of language models, held against a comparison that was just made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..llm.answer_quality import Quality
from ..llm.llm_comparison import LlmBench, LlmRun

_LONG, _SHORT = 512, 128


@dataclass(frozen=True)
class Bar:
    """One promise."""

    what: str
    promised: str
    measured: str
    met: bool


def llm_bars(bench: LlmBench, quality: Iterable[Quality] = ()) -> list[Bar]:
    """Every promise that the comparison says something about."""
    found: list[Bar | None] = []
    split = _split(bench, _LONG)
    if split is not None:
        found += [
            _faster(bench, split, "ONNX Runtime alone", 1.3, prefill="cpu:ort", decode="cpu:ort"),
            _faster(bench, split, "OpenVINO alone, same file", 2.0, peer="one graph for all engines"),
            _faster(bench, split, "OpenVINO alone, its own graph", 1.0, prefill="cpu:openvino", decode="cpu:openvino"),
            _faster(bench, split, "openvino-genai", 1.1, peer="openvino_genai"),
            _faster(bench, split, "llama.cpp", 3.0, peer="llama_cpp"),
            _at_most("KV hand-over at 512 tokens", split.kv_s * 1e3, 3.0, "ms"),
            _memory(bench, split),
        ]
    short = _split(bench, _SHORT)
    if short is not None:
        best = min(r.end_to_end_s for r in _ours(bench, _SHORT) if r.prefill == r.decode)
        ratio = best / short.end_to_end_s
        found.append(Bar("split against the best single engine, 128 tokens", ">= 1.1x", f"{ratio:.2f}x", ratio >= 1.1))
    found += [
        _at_most(f"auto against the best, {c.prompt_tokens} tokens", 100 * c.regret, 3.0, "%") for c in bench.choices
    ]
    if bench.overhead is not None:
        found.append(_at_most("overhead over a bare loop, of decode", 100 * bench.overhead, 3.0, "%"))
    found.append(_prediction(bench.runs))
    limits = bench.limits
    for what, share, bar in (("decode", limits.decode_share, 0.55), ("prefill", limits.prefill_share, 0.75)):
        found.append(Bar(f"share of the machine's limit, {what}", f">= {bar:.0%}", f"{share:.0%}", share >= bar))
    for q in quality:
        if "->" in q.contender:
            found.append(_at_most(f"mean KL to float32, {q.contender}", q.mean_kl, 0.01, ""))
    return [bar for bar in found if bar is not None]


def _ours(bench: LlmBench, length: int) -> list[LlmRun]:
    return [run for run in bench.runs if run.peer is None and run.prompt_tokens == length]


def _split(bench: LlmBench, length: int) -> LlmRun | None:
    pairs = [run for run in _ours(bench, length) if run.prefill != run.decode]
    return min(pairs, key=lambda run: run.end_to_end_s, default=None)


def _faster(bench: LlmBench, split: LlmRun, name: str, bar: float, **wanted: str) -> Bar | None:
    wanted = {"peer": None, **wanted}  # type: ignore[dict-item]
    others = [
        run
        for run in bench.runs
        if run.prompt_tokens == split.prompt_tokens and all(getattr(run, key) == value for key, value in wanted.items())
    ]
    if not others:
        return None
    ratio = others[0].end_to_end_s / split.end_to_end_s
    return Bar(f"split against {name}, {_LONG} tokens", f">= {bar:g}x", f"{ratio:.2f}x", ratio >= bar)


def _memory(bench: LlmBench, split: LlmRun) -> Bar:
    heavier = max(run.rss_bytes for run in _ours(bench, split.prompt_tokens) if run.prefill == run.decode)
    ratio = split.rss_bytes / heavier
    return Bar("memory against the heavier single engine", "<= 1.3x", f"{ratio:.2f}x", ratio <= 1.3)


def _prediction(runs: Sequence[LlmRun]) -> Bar:
    errors = []
    for run in runs:
        if run.predicted_prefill_s is None or run.predicted_decode_s is None:
            continue
        errors.append(abs(run.predicted_prefill_s * run.prefill_tok_s / run.prompt_tokens - 1))
        if run.decode_tok_s:
            errors.append(abs(run.predicted_decode_s * run.decode_tok_s / (run.new_tokens - 1) - 1))
    errors.sort()
    middle, worst = errors[len(errors) // 2], errors[-1]
    return Bar(
        "phase times against their prediction", "<= 10 %", f"median {middle:.0%}, worst {worst:.0%}", worst <= 0.1
    )


def _at_most(what: str, value: float, bar: float, unit: str) -> Bar:
    unit = f" {unit}" if unit else ""
    return Bar(what, f"<= {bar:g}{unit}", f"{value:.2g}{unit}", value <= bar)
