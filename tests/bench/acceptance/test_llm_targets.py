"""Targets for language models, on a synthetic comparison."""

from __future__ import annotations

from trisect.bench.acceptance.llm_targets import llm_target_checks
from trisect.bench.llm.answer_quality import AnswerQuality
from trisect.bench.llm.llm_result import AutoChoice, LlmBench, LlmRun, MachineUtilisation


def run_of(prefill: str, decode: str, end_to_end_s: float, peer: str | None = None) -> LlmRun:
    rate = 1000.0
    return LlmRun(
        peer, prefill, decode, 512, 64, rate, 100.0, 0, 0.001, end_to_end_s, 0.0, 10**9,
        None if peer else 1.0, None if peer else 0.512, None if peer else 0.63,
    )  # fmt: skip


def test_targets_are_met_or_missed() -> None:
    runs = (
        run_of("cpu:openvino", "cpu:ort", 1.0),
        run_of("cpu:ort", "cpu:ort", 1.4),
        run_of("cpu:openvino", "cpu:openvino", 1.2),
        run_of("cpu", "cpu", 1.05, peer="openvino_genai"),
    )
    bench = LlmBench(
        "m", None, 1, runs, (AutoChoice(512, "cpu:ort", "cpu:ort", 1.4, 1.0),),
        MachineUtilisation(1e9, 1e12, 10, 1e9, decode_share=0.6, prefill_share=0.5), 0.01, 1.2, 1.0, 1.2, (),
    )  # fmt: skip
    met = {check.what: check.met for check in llm_target_checks(bench, [AnswerQuality("a -> b", 0.02, 0.1, 0.9, 10)])}
    assert met["split against ONNX Runtime alone, 512 tokens"]
    assert not met["split against openvino-genai, 512 tokens"]
    assert not met["auto against the best, 512 tokens"]
    assert met["share of the machine's limit, decode"]
    assert not met["share of the machine's limit, prefill"]
    assert not met["mean KL to float32, a -> b"]
    assert met["phase times against their prediction"]
    assert met["memory against the heavier single engine"]
