"""Every dtype, list and optional in every engine that supports it, and across segment boundaries."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.typed_models import cast, identity, model_of, tensor, values
from trisect.runtime import engines
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.errors import UnsupportedModel
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import unpack
from trisect.runtime.verification import verify

ORT, OPENVINO, REFERENCE = (engines.find_devices(name)[0] for name in ("cpu:ort", "cpu:openvino", "cpu:reference"))
NUMBERS = [number for number in TensorProto.DataType.values() if number != TensorProto.UNDEFINED]
# Identity is a view for OpenVINO, but ONNX Runtime has no kernel of it for parts of a byte: those go through Cast.
ORT_CASTS = ["int4", "uint4", "int2", "uint2", "float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "bool", "uint64"]
OPENVINO_CARRIES = [
    "int4", "uint4", "float4_e2m1fn", "float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "bool", "float64",
]  # fmt: skip
SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
OPTIONAL = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))


@pytest.mark.parametrize("dtype", OPENVINO_CARRIES)
def test_openvino_supports_the_dtype(dtype):
    value = values(dtype)
    out = engines.load(identity(dtype), OPENVINO).run({"x": value})["y"]
    assert out.dtype == value.dtype
    np.testing.assert_array_equal(out.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize("dtype", ORT_CASTS)
def test_onnx_runtime_supports_the_dtype(dtype):
    value = values(dtype, (7,))
    widened = engines.load(cast(dtype, "float32"), ORT).run({"x": value})["y"]
    np.testing.assert_array_equal(widened, value.astype(np.float32))
    back = engines.load(cast("float32", dtype), ORT).run({"x": widened})["y"]
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize("dtype", ["complex64", "object", "float8_e4m3fnuz", "int2"])
def test_dtypes_that_openvino_lacks_are_refused_at_loading(dtype):
    with pytest.raises(UnsupportedModel, match="'x' holds"):
        engines.load(identity(dtype), OPENVINO)


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Plan, Path]:
    """x -> a list of its rows, and perhaps itself -> how many there are, over three segments."""
    split = helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0)
    wrap = helper.make_node("Optional", ["x"], ["maybe"])
    count = helper.make_node("SequenceLength", ["rows"], ["count"])
    has = helper.make_node("OptionalHasElement", ["maybe"], ["has"])
    x = tensor("x", "float32", ["n", 2])
    rows, maybe = helper.make_value_info("rows", SEQUENCE), helper.make_value_info("maybe", OPTIONAL)
    ends = [tensor("count", "int64", []), tensor("has", "bool", [])]
    parts = [
        ("cpu:ort", model_of([split], [x], [rows])),
        ("cpu:reference", model_of([wrap], [x], [maybe])),
        ("cpu:ort", model_of([count, has], [rows, maybe], ends)),
    ]
    whole = tmp_path / "whole.onnx"
    onnx.save(model_of([split, wrap, count, has], [x], ends), whole)
    segments = []
    for index, (device, model) in enumerate(parts):
        file = tmp_path / f"segment-{index}.onnx"
        onnx.save(model, file)
        declared = read_signature(file)
        segments.append(Segment(index, device, (f"node {index}",), declared.inputs, declared.outputs, file.name))
    declared = read_signature(whole)
    plan = Plan(
        model="whole.onnx", model_sha256="", devices=(ORT, REFERENCE), placement={}, segments=tuple(segments),
        transfers=(), inputs=declared.inputs, outputs=declared.outputs, strategy="by hand", objective="latency", seed=0,
        shapes={"n": 3}, predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(tmp_path),
    )  # fmt: skip
    return plan, whole


def test_lists_and_optionals_cross_segment_boundaries(listed):
    plan, _ = listed
    assert [spec.dtype for spec in plan.segments[2].inputs] == ["seq(float32)", "optional(float32)"]
    with Session(plan) as session:
        out = session.run({"x": np.ones((4, 2), np.float32)})
    assert out["count"] == 4
    assert out["has"]


def test_verify_compares_lists(listed):
    plan, whole = listed
    verification = verify(plan, whole)
    assert verification.ok
    assert {check.name: check.dtype for check in verification.checks} == {
        "rows": "seq(float32)", "maybe": "optional(float32)", "count": "int64", "has": "bool",
    }  # fmt: skip
    spoiled = model_of(
        [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("SplitToSequence", ["z"], ["rows"], axis=0)],
        [tensor("x", "float32", ["n", 2])], [helper.make_value_info("rows", SEQUENCE)],
    )  # fmt: skip
    onnx.save(spoiled, Path(plan.folder) / plan.segments[0].file)
    x = np.zeros((3, 2), np.float32)
    x[1, 0] = 4
    verification = verify(plan, whole, {"x": x})
    wrong = next(check for check in verification.checks if check.name == "rows")
    assert (verification.ok, verification.drift_segment, wrong.max_abs, wrong.where) == (True, 0, 8.0, (1, 0, 0))


def test_lists_of_dtypes_that_numpy_lacks_are_refused_at_loading():
    half = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.BFLOAT16, None))
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    text = model_of(nodes, [helper.make_value_info("s", half)], [tensor("n", "int64", [])]).SerializeToString()
    with pytest.raises(UnsupportedModel, match=r"seq\(bfloat16\)"):
        engines.load(text, ORT)


def test_empty_and_rankless_tensors_pass():
    text = identity("float32", None)
    for device in (ORT, REFERENCE):
        module = engines.load(text, device)
        for shape in ((), (0,), (2, 0, 3), (1, 2, 3, 4)):
            assert module.run({"x": np.zeros(shape, np.float32)})["y"].shape == shape
    assert unpack("optional(float32)", np.array(None, dtype=object)) is None
    assert ml_dtypes.bfloat16(1) == 1
