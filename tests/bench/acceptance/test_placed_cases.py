"""The conformance suite as split places it: cases that an engine alone fails are right or refused, never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.partitioner.small_models import FakeCosts
from trisect.bench.acceptance.conformance_cases import ConformanceCase, conformance_cases
from trisect.bench.acceptance.onnx_backend import temporary_onnx_home
from trisect.bench.acceptance.placed_cases import PlacedOutcome, PlacedResult, bench_placed_cases, place_case
from trisect.partitioner.planning.plan_request import DeviceData
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime.engines import find_devices

FAST_OPENVINO = FakeCosts(flops_per_s=(("cpu:openvino", 1e12),), copy_s=1e-9, overhead_s=1e-9)
ONLY_ONE_IS_RIGHT = (
    "test_tile", "test_top_k_same_values",
    "test_resize_downsample_scales_linear_antialias", "test_resize_upsample_sizes_nearest_not_larger",
    "test_resize_upsample_scales_cubic_A_n0p5_exclude_outside", "test_reduce_max_empty_set", "test_roialign_mode_max",
    "test_cast_FLOAT_to_DOUBLE", "test_maxpool_2d_ceil_output_size_reduce_by_one",
)  # fmt: skip
NEITHER_IS_RIGHT = (
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal", "test_gru_batchwise",
    "test_resize_downsample_scales_cubic_align_corners",
)  # fmt: skip
ALL_ARE_RIGHT = (
    "test_add", "test_softmax_axis_1", "test_basic_conv_with_padding", "test_matmul_2d",
    "test_sum_one_input", "test_max_one_input", "test_dropout_default",
)  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> dict[str, ConformanceCase]:
    with temporary_onnx_home():
        return {case.name: case for case in conformance_cases() if case.kind == "Node"}


@pytest.fixture
def outcomes(cases, tmp_path: Path):
    data = DeviceData(FAST_OPENVINO, capabilities=Capabilities(tmp_path / "capabilities.json"))

    def place(name: str) -> list[PlacedOutcome]:
        devices = tuple(find_devices("cpu:ort,cpu:openvino"))
        return list(place_case(cases[name], devices, data, ("auto", "single:cpu:openvino"), verify=False))

    return place


@pytest.mark.parametrize("name", ONLY_ONE_IS_RIGHT)
def test_what_openvino_gets_wrong_is_never_given_to_it(outcomes, name):
    placed, alone = outcomes(name)
    assert placed.result in ("right", "refused")
    assert "cpu:openvino" not in placed.devices
    assert alone.result == "refused"


@pytest.mark.parametrize("name", NEITHER_IS_RIGHT)
def test_what_no_engine_computes_right_is_refused_by_name(outcomes, name):
    placed, _ = outcomes(name)
    assert placed.result == "refused"
    assert "runs on none of cpu:ort (" in placed.reason


@pytest.mark.parametrize("name", ALL_ARE_RIGHT)
def test_what_both_compute_right_is_refused_on_neither(outcomes, name):
    assert [outcome.result for outcome in outcomes(name)] == ["right", "right"]


def test_a_wrong_answer_misses_the_target():
    right, wrong = PlacedOutcome("test_a", "auto", "right"), PlacedOutcome("test_b", "auto", "wrong", "by 1")
    assert PlacedResult((right,)).met
    result = PlacedResult((right, wrong))
    assert not result.met
    assert result.document()["counts"] == {"auto": {"right": 1, "wrong": 1}}
    assert result.document()["wrong"] == [wrong]


@pytest.mark.slow
def test_no_case_is_wrong():
    assert bench_placed_cases().document()["wrong"] == []
