"""Engines that compile an operator and compute another are found; differences that ONNX leaves open are not counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.profiles.capabilities.value_trials import (
    EQUAL,
    UNDECIDED,
    ValueTrial,
    compare_values,
    isolated_comparison,
    results_differ,
)
from trisect.runtime import engines

ORT, OPENVINO = engines.find_devices("cpu:ort,cpu:openvino")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture
def trial(tmp_path: Path):
    def make(node, dtype=FLOAT, shape=(8,), kinds=None, constants=None, out=None, opset=21, **options) -> ValueTrial:
        names = [name for name in dict.fromkeys(node.input) if name and name not in (constants or {})]
        graph = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info(n, dtype, shape) for n in names],
            [helper.make_tensor_value_info("y", out or dtype, None)],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        path = tmp_path / f"{node.op_type}.onnx"
        path.write_bytes(model.SerializeToString())
        return ValueTrial(str(path), kinds or {}, **options)

    return make


def test_what_engines_compute_alike_is_equal(trial):
    for op_type in ("Neg", "Exp", "Round", "Sqrt", "Softmax"):
        one = trial(helper.make_node(op_type, ["x"], ["y"]))
        assert [compare_values(one, device) for device in (ORT, OPENVINO)] == [EQUAL, EQUAL], op_type


def test_numbers_beyond_32_bits_are_tried_where_they_can_occur(trial):
    node = helper.make_node("Neg", ["x"], ["y"])
    assert compare_values(trial(node, INT64), OPENVINO) == EQUAL
    wide = trial(node, INT64, kinds={"x": "w", "y": "w"})
    assert compare_values(wide, ORT) == EQUAL
    result = compare_values(wide, OPENVINO)
    assert result.outcome == "different"
    assert "'y' is off by" in result.reason
    assert "beyond 32 bits" in result.reason
    cast = trial(helper.make_node("Cast", ["x"], ["y"], to=INT64), kinds={"y": "w"}, out=INT64)
    assert compare_values(cast, ORT) == EQUAL
    assert compare_values(cast, OPENVINO).outcome == "different"


def test_nan_is_tried_where_the_model_can_meet_it(trial):
    node = helper.make_node("Relu", ["x"], ["y"])
    assert compare_values(trial(node, shape=(4, 16)), OPENVINO) == EQUAL
    assert compare_values(trial(node, shape=(4, 16), kinds={"x": "n"}), OPENVINO).outcome == "different"
    assert compare_values(trial(node, shape=(4, 16), kinds={"x": "n"}), ORT) == EQUAL


def test_an_ignored_attribute_is_found(trial):
    sizes = {"s": np.array([1, 1, 3, 5])}
    plain = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear")
    smooth = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear", antialias=1)
    assert compare_values(trial(plain, shape=(1, 1, 9, 11), constants=sizes), OPENVINO) == EQUAL
    assert compare_values(trial(smooth, shape=(1, 1, 9, 11), constants=sizes), OPENVINO).outcome == "different"
    proportional = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"
    )
    shape = compare_values(trial(proportional, shape=(1, 1, 9, 11), constants={"s": np.array([7, 5])}), OPENVINO)
    assert "has shape" in shape.reason


@pytest.mark.parametrize(
    ("op_type", "dtype", "attributes", "out"),
    [
        ("Cast", FLOAT, {"to": TensorProto.INT32}, TensorProto.INT32),
        ("Cast", FLOAT, {"to": TensorProto.UINT8}, TensorProto.UINT8),
        ("BitShift", TensorProto.UINT32, {"direction": "LEFT"}, None),
        ("Div", TensorProto.INT32, {}, None),
        ("Pow", FLOAT, {}, None),
    ],
)
def test_what_onnx_leaves_open_counts_against_no_engine(trial, op_type, dtype, attributes, out):
    inputs = ["x"] if op_type == "Cast" else ["x", "z"]
    one = trial(helper.make_node(op_type, inputs, ["y"], **attributes), dtype, out=out)
    assert compare_values(one, ORT) == EQUAL
    assert compare_values(one, OPENVINO) == EQUAL


def test_the_spelling_of_numbers_is_left_open(trial):
    text = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)
    assert compare_values(trial(text, FLOAT, out=TensorProto.STRING), ORT) == EQUAL


def test_random_operators_differ_in_no_value(trial):
    one = trial(helper.make_node("RandomNormalLike", ["x"], ["y"]), shape=(4, 4))
    assert compare_values(one, ORT) == EQUAL
    assert compare_values(one, OPENVINO) == EQUAL


def test_indices_are_drawn_within_their_limits(trial):
    gather = helper.make_node("Gather", ["t", "x"], ["y"])
    table = {"t": np.arange(5, dtype=np.float32)}
    for device in (ORT, OPENVINO):
        assert compare_values(trial(gather, INT64, constants=table, out=FLOAT), device) == EQUAL


def test_without_the_reference_the_most_trusted_engine_is_not_judged(trial):
    one = trial(helper.make_node("Neg", ["x"], ["y"]), use_reference=False)
    assert compare_values(one, ORT) == UNDECIDED
    assert compare_values(one, OPENVINO) == EQUAL


def test_a_trial_runs_in_another_process(trial):
    assert isolated_comparison(trial(helper.make_node("Neg", ["x"], ["y"])), ORT) == EQUAL


def test_integers_are_compared_exactly_and_quantised_ones_to_one_step(trial):
    def difference(op_type: str, one: list[int], other: list[int]) -> str:
        node = helper.make_node(op_type, ["x"], ["y"])
        model = helper.make_model(helper.make_graph([node], "g", [], []))
        with_y = engines.load(Path(trial(helper.make_node("Neg", ["x"], ["y"]), INT64).model), ORT)
        return results_differ(model, with_y, {"y": np.array(one)}, {"y": np.array(other)})

    assert difference("Neg", [2**40, 1], [2**40, 1]) == ""
    assert difference("Neg", [2**40 + 1, 1], [2**40, 1]) == "'y' is off by 1"
    assert difference("DynamicQuantizeLinear", [101, 1], [100, 1]) == ""
    assert difference("DynamicQuantizeLinear", [102, 1], [100, 1]) == "'y' is off by 2"
    assert "has shape [1], not [2]" in difference("Neg", [1], [1, 2])
