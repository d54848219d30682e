"""ONNX's conformance suite through split models: some cases of every kind, all of them with --slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trisect.bench.acceptance.onnx_backend import PASSED_SHARE_MIN, CaseOutcome, ConformanceResult, bench_onnx_backend

ROOT = Path(__file__).resolve().parents[3]


def test_some_of_the_suite_passes_split():
    result = bench_onnx_backend(every=307, alone=())
    assert {outcome.kind for outcome in result.outcomes} == {
        "Node", "Simple", "Real", "PyTorchConverted", "PyTorchOperator",
    }  # fmt: skip
    assert [outcome for outcome in result.outcomes if outcome.status != "passed"] == []
    devices = [device for outcome in result.outcomes for device in outcome.devices]
    assert {"cpu:ort", "cpu:openvino"} <= set(devices)


@pytest.mark.slow
def test_the_whole_suite_passes_as_promised():
    result = bench_onnx_backend()
    assert result.count("passed") >= PASSED_SHARE_MIN * len(result.outcomes)
    assert result.broken_by_splitting == ()


def test_the_recorded_run_met_its_target_and_has_a_reason_for_each_failure():
    recorded = json.loads((ROOT / "bench" / "results" / "onnx_backend.json").read_text())
    assert recorded["met"]
    assert recorded["passed"] + len(recorded["failed"]) + len(recorded["skipped"]) == recorded["cases"]
    assert recorded["passed"] >= PASSED_SHARE_MIN * recorded["cases"]
    assert all(failure["reason"] for failure in recorded["failed"])
    assert recorded["broken_by_splitting"] == []


def test_a_case_that_only_splitting_breaks_is_reported():
    outcomes = tuple(CaseOutcome(name, "Node", "passed") for name in "abcdefgh")
    broken = (*outcomes, CaseOutcome("i", "Node", "failed", "AssertionError: 1 is not 2"))
    alone = (*outcomes, CaseOutcome("i", "Node", "passed"))
    result = ConformanceResult("2026-11-21", {}, broken, {"cpu:ort": alone})
    assert result.broken_by_splitting == ("i",)
    assert not result.met
    assert result.document()["failed"] == [{"name": "i", "kind": "Node", "reason": "AssertionError: 1 is not 2"}]
