"""Targets for language models, compared with the results of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..llm.answer_quality import AnswerQuality
from ..llm.llm_result import LlmBench, LlmRun
from .target_check import TargetCheck

_LONG, _SHORT = 512, 128


def llm_target_checks(bench: LlmBench, quality: Iterable[AnswerQuality] = ()) -> list[TargetCheck]:
    """Return the checks of all targets that the comparison measured."""
    checks: list[TargetCheck | None] = []
    split = _split(bench, _LONG)
    if split is not None:
        checks += [
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
        checks.append(
            TargetCheck("split against the best single engine, 128 tokens", ">= 1.1x", f"{ratio:.2f}x", ratio >= 1.1)
        )
    checks += [
        _at_most(f"auto against the best, {c.prompt_tokens} tokens", 100 * c.regret, 3.0, "%") for c in bench.choices
    ]
    if bench.overhead is not None:
        checks.append(_at_most("overhead over a bare loop, of decode", 100 * bench.overhead, 3.0, "%"))
    checks.append(_prediction(bench.runs))
    limits = bench.limits
    for what, share, target in (("decode", limits.decode_share, 0.55), ("prefill", limits.prefill_share, 0.75)):
        checks.append(
            TargetCheck(f"share of the machine's limit, {what}", f">= {target:.0%}", f"{share:.0%}", share >= target)
        )
    for q in quality:
        if "->" in q.contender:
            checks.append(_at_most(f"mean KL to float32, {q.contender}", q.mean_kl, 0.01, ""))
    return [check for check in checks if check is not None]


def _ours(bench: LlmBench, length: int) -> list[LlmRun]:
    return [run for run in bench.runs if run.peer is None and run.prompt_tokens == length]


def _split(bench: LlmBench, length: int) -> LlmRun | None:
    pairs = [run for run in _ours(bench, length) if run.prefill != run.decode]
    return min(pairs, key=lambda run: run.end_to_end_s, default=None)


def _faster(bench: LlmBench, split: LlmRun, name: str, target: float, **criteria: str) -> TargetCheck | None:
    criteria = {"peer": None, **criteria}  # type: ignore[dict-item]
    others = [
        run
        for run in bench.runs
        if run.prompt_tokens == split.prompt_tokens
        and all(getattr(run, key) == value for key, value in criteria.items())
    ]
    if not others:
        return None
    ratio = others[0].end_to_end_s / split.end_to_end_s
    return TargetCheck(f"split against {name}, {_LONG} tokens", f">= {target:g}x", f"{ratio:.2f}x", ratio >= target)


def _memory(bench: LlmBench, split: LlmRun) -> TargetCheck:
    heavier = max(run.rss_bytes for run in _ours(bench, split.prompt_tokens) if run.prefill == run.decode)
    ratio = split.rss_bytes / heavier
    return TargetCheck("memory against the heavier single engine", "<= 1.3x", f"{ratio:.2f}x", ratio <= 1.3)


def _prediction(runs: Sequence[LlmRun]) -> TargetCheck | None:
    errors = []
    for run in runs:
        if run.predicted_prefill_s is None or run.predicted_decode_s is None:
            continue
        errors.append(abs(run.predicted_prefill_s * run.prefill_tok_s / run.prompt_tokens - 1))
        if run.decode_tok_s:
            errors.append(abs(run.predicted_decode_s * run.decode_tok_s / (run.new_tokens - 1) - 1))
    if not errors:
        return None
    errors.sort()
    middle, worst = errors[len(errors) // 2], errors[-1]
    return TargetCheck(
        "phase times against their prediction", "<= 10 %", f"median {middle:.0%}, worst {worst:.0%}", worst <= 0.1
    )


def _at_most(what: str, value: float, target: float, unit: str) -> TargetCheck:
    unit = f" {unit}" if unit else ""
    return TargetCheck(what, f"<= {target:g}{unit}", f"{value:.2g}{unit}", value <= target)
