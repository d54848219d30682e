"""Measurement of the runtime's overhead: like is compared with like. Its figures are not asserted."""

from __future__ import annotations

import numpy as np
import pytest

from trisect.bench.acceptance.interleaved_timing import time_interleaved
from trisect.bench.acceptance.runtime_cases import runtime_calls
from trisect.bench.acceptance.runtime_cases.handmade_plans import chain_plan, device
from trisect.bench.acceptance.runtime_cases.runtime_figure import RuntimeFigure
from trisect.bench.acceptance.runtime_cases.runtime_overhead import bench_runtime
from trisect.runtime.errors import InvalidInput
from trisect.runtime.sessions.session import Session


def test_calls_are_interleaved_and_the_first_round_does_not_count():
    order: list[str] = []
    times = time_interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, repeat=2)
    assert order == ["a", "a", "b", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]


def test_a_chain_of_negations_is_what_it_says(tmp_path):
    devices = [device("cpu:ort"), device("cpu:openvino"), device("cpu:ort")]
    with Session(chain_plan(devices, 16, tmp_path)) as session:
        assert session.run({"t0": np.ones(16, np.float32)})["t3"].tolist() == [-1] * 16


def test_targets_are_bounds_from_above_or_below():
    assert RuntimeFigure("c", "w", 1.0, "x", 1.02, True).met
    assert not RuntimeFigure("c", "w", 1.0, "x", 1.8, False).met


def test_small_forms_of_the_cases_run(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime_calls, "_STAGE_ITEMS", 3)
    monkeypatch.setattr(runtime_calls, "_STREAM_ITEMS", 60)
    shown: list[RuntimeFigure] = []
    result = bench_runtime(tmp_path, ["offload", "long_stream"], shown.append)
    assert list(result.measured) == shown
    assert [figure.case for figure in shown] == ["offload", "offload", "long_stream"]
    assert all(np.isfinite(figure.value) for figure in shown)
    assert result.source == "measured"
    assert set(result.versions) >= {"ort", "openvino", "python"}


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no case 'speed'; choose from one_segment, alternating, hops"):
        bench_runtime(tmp_path, ["speed"])
    with pytest.raises(InvalidInput, match=r"ch_PP-OCRv4_det_infer.onnx is not in .*; fetch it with"):
        list(bench_runtime(tmp_path, ["cuts"]).measured)
