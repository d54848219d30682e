"""Verification passes a correct split, and locates the first segment with wrong results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trisect.runtime.errors import InvalidInput, InvalidModel, UnknownDevice, UnsupportedModel
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec
from trisect.runtime.verification import verify


def test_a_correct_split_passes_at_every_boundary(diamond, whole):
    verification = verify(diamond, whole)
    assert verification.ok
    assert verification.drift_segment is None
    assert verification.reference == "cpu:ort"
    assert [check.name for check in verification.checks] == ["a", "b", "l", "r", "y"]
    assert [check.segment for check in verification.checks] == [0, 0, 1, 2, 3]
    assert verification.max_abs <= 1e-5
    assert verification.max_rel <= 1e-5


def spoil(plan, index: int, model: bytes) -> None:
    (Path(plan.folder) / plan.segments[index].file).write_bytes(model)


def test_the_first_wrong_segment_is_named(diamond, whole, model):
    spoil(diamond, 1, model("g (float[n,3] a) => (float[n,3] l) { l = Mul(a, a) }"))  # was a + a
    x = np.full((1, 3), 3, np.float32)
    verification = verify(diamond, whole, {"x": x})
    assert not verification.ok
    assert verification.drift_segment == 1
    wrong = {check.name for check in verification.checks if not check.ok}
    assert wrong == {"l", "y"}
    assert verification.max_abs == pytest.approx(9 * 9 - 2 * 9)  # l is a*a = 81 instead of 18
    assert verification.max_rel == pytest.approx((81 - 18) / (2 * 9 + 3 + 3))


def test_tolerance_follows_the_precision(diamond, whole, model):
    spoil(
        diamond,
        2,
        model("g (float[n,3] b) => (float[n,3] r) { k = Constant<value_floats=[1.01]>() p = Abs(b) r = Mul(p, k) }"),
    )
    feeds = {"x": np.full((1, 3), 10, np.float32)}
    # r is off by 0.1 of 10, which is wrong; y by 0.1 of 220, which is not.
    default = verify(diamond, whole, feeds)
    assert default.ok
    assert default.drift_segment == 2
    assert verify(diamond, whole, feeds, precision="fast").drift_segment is None
    assert not verify(diamond, whole, feeds, tolerance=1e-4).ok
    assert not verify(diamond, whole, feeds, tolerance=0.0).ok


def test_nan_where_the_whole_model_has_a_number_is_wrong(diamond, whole, model):
    spoil(diamond, 2, model("g (float[n,3] b) => (float[n,3] r) { z = Sub(b, b) r = Div(z, z) }"))
    verification = verify(diamond, whole)
    assert not verification.ok
    assert verification.max_abs == float("inf")
    assert verification.drift_segment == 2


def test_bad_arguments_are_refused(diamond, whole, tmp_path):
    with pytest.raises(UnknownDevice):
        verify(diamond, whole, reference="npu:none")
    with pytest.raises(InvalidInput):
        verify(diamond, whole, {"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(InvalidModel):
        verify(diamond, tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(InvalidModel):
        verify(diamond, tmp_path / "bad.onnx")


def test_another_model_is_not_mistaken_for_the_one_that_was_split(diamond, tmp_path, model):
    other = tmp_path / "other.onnx"
    other.write_bytes(model("g (float[n,3] x) => (float[n,3] q) { q = Neg(x) }"))
    with pytest.raises(InvalidModel, match="no output 'y'"):
        verify(diamond, other)


def test_generated_feeds_are_the_same_for_the_same_seed_and_fit_the_model(make_plan):
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32).reshape(5, 2), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("Shape", ["mask"], ["s"])], "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, ["n", 2])], [table],
    )  # fmt: skip
    model = helper.make_model(graph)
    inputs = [
        TensorSpec("ids", "int64", (1000,)),
        TensorSpec("mask", "int64", (1, 1000)),
        TensorSpec("flag", "bool", (1000,)),
        TensorSpec("image", "float32", ("batch", 3)),
        TensorSpec("pixels", "uint8", (1000,)),
        TensorSpec("step", "int64", (1,)),
        TensorSpec("text", "object", (2,)),
        TensorSpec("half", "bfloat16", (4,)),
    ]
    plan = make_plan([], inputs, [])
    feeds, again, other = (generate_feeds(model, plan, seed) for seed in (0, 0, 1))
    assert set(feeds["ids"]) == {0, 1, 2, 3, 4}
    assert set(feeds["mask"].ravel()) == {0, 1}
    assert feeds["pixels"].max() > 200
    assert feeds["step"].tolist() == [1]
    assert feeds["image"].shape == (1, 3)
    assert all(feeds[spec.name].dtype.name == spec.dtype for spec in inputs)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(feeds["ids"], other["ids"])


def test_models_with_weights_beside_them_are_verified(make_plan, tmp_path):
    weight = numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(3, 3), "w")

    def save(nodes, inputs, outputs, path):
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in names]
            for names in (inputs, outputs)
        ]
        graph = helper.make_graph(nodes, "g", *ends, [weight] if any("w" in node.input for node in nodes) else [])
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
        onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)

    product, negation = helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Neg", ["t"], ["y"])
    specs = {name: TensorSpec(name, "float32", ("n", 3)) for name in "xy"}
    parts = [("cpu:openvino", "g (float[n,3] x) => (float[n,3] t) { t = Neg(x) }"),
             ("cpu:ort", "g (float[n,3] t) => (float[n,3] y) { y = Neg(t) }")]  # fmt: skip
    plan = make_plan(parts, [specs["x"]], [specs["y"]])
    save([product], ["x"], ["t"], tmp_path / "segment-0.onnx")
    save([product, negation], ["x"], ["y"], tmp_path / "whole.onnx")
    verification = verify(plan, tmp_path / "whole.onnx")
    assert verification.ok
    assert [check.name for check in verification.checks] == ["t", "y"]


def test_random_outputs_cannot_be_verified(make_plan, model, tmp_path):
    text = "g (float[n,3] x) => (float[n,3] y) { r = RandomNormalLike(x)  y = Add(x, r) }"
    (tmp_path / "random.onnx").write_bytes(model(text))
    plan = make_plan([("cpu:openvino", text)], *([TensorSpec(name, "float32", ("n", 3))] for name in "xy"))
    with pytest.raises(UnsupportedModel, match="RandomNormalLike gives other numbers in each run"):
        verify(plan, tmp_path / "random.onnx")


def test_integers_are_equal_or_wrong(make_plan, model, tmp_path):
    whole = "g (int64[n] x) => (int64[n] y) { y = Add(x, x) }"
    (tmp_path / "whole.onnx").write_bytes(model(whole))
    wrong = "g (int64[n] x) => (int64[n] y) { one = Constant<value_int = 1>() d = Add(x, x) y = Add(d, one) }"
    plan = make_plan([("cpu:ort", wrong)], *([TensorSpec(name, "int64", ("n",))] for name in "xy"))
    verification = verify(plan, tmp_path / "whole.onnx", {"x": np.array([10**15, 3])}, tolerance=0.5)
    assert not verification.ok
    assert verification.max_abs == 1
    assert verification.checks[0].difference == "'y' is an integer off by 1 at index 0"
