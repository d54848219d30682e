"""Every type of tensor, list and optional, through every engine that takes it, from segment to segment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from trisect.runtime import engines
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.errors import EngineFailed, InvalidInput, TrisectError, UnsupportedModel
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import pack_bits, unpack, unpack_bits
from trisect.runtime.tensors.dtypes import bits_of, dtype_of, onnx_dtype_name, onnx_dtype_number
from trisect.runtime.tensors.feed_checks import check_buffers, check_feeds
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


def tensor(name, dtype, shape=None):
    return helper.make_tensor_value_info(name, onnx_dtype_number(dtype), shape)


def model_of(nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=10)


def identity(dtype, shape=(3, "n")):
    ends = (tensor(name, dtype, shape) for name in "xy")
    return model_of([helper.make_node("Identity", ["x"], ["y"])], [next(ends)], [next(ends)]).SerializeToString()


def cast(source, target):
    node = helper.make_node("Cast", ["x"], ["y"], to=onnx_dtype_number(target))
    return model_of([node], [tensor("x", source, ["n"])], [tensor("y", target, ["n"])]).SerializeToString()


def values(dtype, shape=(3, 5)):
    return (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype_of(dtype))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_dtype_of_onnx_has_a_name_and_an_array(number):
    name = onnx_dtype_name(number)
    assert name is not None
    assert onnx_dtype_number(name) == number
    expected = helper.tensor_dtype_to_np_dtype(number)
    assert dtype_of(name) == expected
    if expected.kind != "O":
        assert bits_of(name) <= 8 * expected.itemsize


@pytest.mark.parametrize("dtype", OPENVINO_CARRIES)
def test_openvino_carries_it(dtype):
    value = values(dtype)
    out = engines.load(identity(dtype), OPENVINO).run({"x": value})["y"]
    assert out.dtype == value.dtype
    np.testing.assert_array_equal(out.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize("dtype", ORT_CASTS)
def test_onnx_runtime_takes_it_and_gives_it(dtype):
    value = values(dtype, (7,))
    widened = engines.load(cast(dtype, "float32"), ORT).run({"x": value})["y"]
    np.testing.assert_array_equal(widened, value.astype(np.float32))
    back = engines.load(cast("float32", dtype), ORT).run({"x": widened})["y"]
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize("dtype", ["complex64", "object", "float8_e4m3fnuz", "int2"])
def test_what_openvino_does_not_know_is_refused_when_it_is_loaded(dtype):
    with pytest.raises(UnsupportedModel, match="'x' holds"):
        engines.load(identity(dtype), OPENVINO)


def test_complex_numbers_are_refused_by_onnx_runtime_and_carried_by_the_reference():
    with pytest.raises(EngineFailed, match="complex64"):
        engines.load(identity("complex64"), ORT)
    value = np.array([[1 + 2j]], np.complex64).repeat(3, 0)
    np.testing.assert_array_equal(engines.load(identity("complex64"), REFERENCE).run({"x": value})["y"], value)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn", "int2", "uint2"])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_parts_of_a_byte_are_packed_as_onnx_packs_them(dtype, count):
    value = values(dtype, (count,))
    packed = pack_bits(value, bits_of(dtype))
    assert packed.tobytes() == onnx.numpy_helper.from_array(value).raw_data
    np.testing.assert_array_equal(unpack_bits(packed, bits_of(dtype), (count,), value.dtype), value)


def test_the_reference_is_found_by_its_name_only():
    assert "cpu:reference" not in [device.id for device in engines.discover()]
    assert "cpu:reference" not in [device.id for device in engines.find_devices("cpu")]
    assert not REFERENCE.is_real


def test_the_reference_is_a_module_like_any_other():
    module = engines.load(identity("float32"), REFERENCE)
    x, y = values("float32"), np.empty((3, 5), np.float32)
    binding = module.bind({"x": x}, {"y": y})
    binding.run()
    np.testing.assert_array_equal(binding.output("y"), x)
    with pytest.raises(InvalidInput):
        module.run({"x": x.astype(np.float64)})
    module.close()
    with pytest.raises(EngineFailed, match="closed"):
        module.run({"x": x})
    with pytest.raises(TrisectError, match="cannot load"):
        engines.load(model_of([helper.make_node("Nonsense", ["x"], ["y"])], [tensor("x", "float32")],
                              [tensor("y", "float32")]).SerializeToString(), REFERENCE)  # fmt: skip


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


def test_lists_and_optionals_go_from_segment_to_segment(listed):
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


def test_wrong_lists_are_refused_before_anything_runs():
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    module = engines.load(
        model_of(nodes, [helper.make_value_info("s", SEQUENCE)], [tensor("n", "int64", [])]).SerializeToString(), ORT
    )
    assert module.run({"s": [np.zeros(2, np.float32), np.float32(1)]})["n"] == 2
    assert module.run({"s": []})["n"] == 0
    for bad, options in (
        ([np.zeros(2)], "element 0 is float64"),
        (np.zeros(2, np.float32), "is a ndarray, not a list"),
        (None, "not a list"),
        ([[1.0]], "element 0 is a list"),
    ):
        with pytest.raises(InvalidInput, match=options):
            module.run({"s": bad})
    with pytest.raises(InvalidInput, match="no fixed buffer"):
        check_buffers({"s": np.empty(0, object)}, module.inputs, {}, module.outputs)


def test_lists_of_what_numpy_lacks_are_refused_by_onnx_runtime_at_once():
    half = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.BFLOAT16, None))
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    text = model_of(nodes, [helper.make_value_info("s", half)], [tensor("n", "int64", [])]).SerializeToString()
    with pytest.raises(UnsupportedModel, match=r"seq\(bfloat16\)"):
        engines.load(text, ORT)


def test_tensors_of_other_libraries_are_read_where_they_are():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    foreign = SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)
    spec = read_signature(identity("float32", (2, 3))).inputs
    for value in (foreign, ort.OrtValue.ortvalue_from_numpy(array)):
        seen = check_feeds(spec, {"x": value})["x"]
        np.testing.assert_array_equal(seen, array)
        assert np.shares_memory(seen, array)


def test_a_tensor_that_cannot_be_read_is_refused_in_one_line():
    def fail(**_):
        raise BufferError("the tensor is on a device")

    spec = read_signature(identity("float32")).inputs
    away = SimpleNamespace(__dlpack__=fail, __dlpack_device__=lambda: (2, 0))
    with pytest.raises(InvalidInput, match=r"the tensor is on a device.*move it to the CPU"):
        check_feeds(spec, {"x": away})
    with pytest.raises(InvalidInput, match="is a list"):
        check_feeds(spec, {"x": [[1.0]]})


def test_empty_and_rankless_tensors_pass():
    text = identity("float32", None)
    for device in (ORT, REFERENCE):
        module = engines.load(text, device)
        for shape in ((), (0,), (2, 0, 3), (1, 2, 3, 4)):
            assert module.run({"x": np.zeros(shape, np.float32)})["y"].shape == shape
    assert unpack("optional(float32)", np.array(None, dtype=object)) is None
    assert ml_dtypes.bfloat16(1) == 1
