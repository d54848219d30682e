"""Numbers of value trials: single ones are beyond 32 bits too, and results do not overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.profiles.capabilities.trial_feeds import TrialFeeds
from trisect.profiles.capabilities.trial_numbers import numbers, within_dtype
from trisect.profiles.capabilities.value_trials import EQUAL, ValueTrial, compare_values
from trisect.runtime.engines import find_devices

WIDE = "numbers beyond 32 bits"


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64"])
def test_one_number_alone_is_beyond_32_bits(dtype):
    drawn = [numbers(dtype, (1,), WIDE, "w", np.random.default_rng(seed)) for seed in range(20)]
    assert min(abs(float(array[0])) for array in drawn) > 2**32


def test_one_number_alone_is_infinite_or_nan():
    drawn = [numbers("float32", (1,), "infinities and NaN", "+-n", np.random.default_rng(seed)) for seed in range(20)]
    assert not any(np.isfinite(array[0]) for array in drawn)


@pytest.mark.parametrize(
    ("op_type", "count", "result"),
    [
        ("ReduceSum", 8, lambda v: v.sum(axis=1)),
        ("ReduceSumSquare", 8, lambda v: (v * v).sum(axis=1)),
        ("ReduceProd", 8, lambda v: v.prod(axis=1)),
        ("Pow", 1, lambda v: v**3),
    ],
)
def test_results_do_not_overflow(op_type, count, result):
    values = within_dtype(np.full((2, 8), 2**60), op_type, "int64", count)
    assert np.abs(result(values.astype(object)).astype(float)).max() <= 2**53
    assert values.max() > 2**8


@pytest.mark.parametrize(
    ("device", "outcome"), [("cpu:ort", "equal"), ("cpu:openvino", "different")], ids=["ort", "openvino"]
)
def test_a_sum_of_token_masks_runs_on_onnx_runtime(tmp_path, device, outcome):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["mask", "axes"], ["count"], keepdims=1)],
        "g",
        [info("mask", TensorProto.INT64, [2, 8])],
        [info("count", TensorProto.INT64, [2, 1])],
        [numpy_helper.from_array(np.array([1]), "axes")],
    )
    path = tmp_path / "sum.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    compared = compare_values(ValueTrial(str(path), {"mask": "w", "count": "w"}), find_devices(device)[0])
    assert compared == EQUAL if outcome == "equal" else compared.outcome == outcome


def test_single_numbers_reveal_an_engine_that_narrows_them(tmp_path):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [info("x", TensorProto.INT64, [1])],
        [info("y", TensorProto.INT64, [1])],
    )
    path = tmp_path / "add.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    assert compare_values(ValueTrial(str(path), {"x": "w", "y": "w"}), find_devices("cpu:openvino")[0]).outcome == (
        "different"
    )
    labels = [label for label, arrays in TrialFeeds(model, {"x": "w"}, 0).draws() if abs(int(arrays["x"][0])) > 2**32]
    assert labels == [WIDE, WIDE]
