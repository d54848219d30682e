"""Models with features that few exporters write: the parts of a split compute what the whole does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.runtime.tensors.tensor_spec import TensorSpec

FLOAT, TEXT, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
info, node = helper.make_tensor_value_info, helper.make_node
X, Y = info("x", FLOAT, [2, 3]), info("y", FLOAT, [2, 3])
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
WEIGHT = numpy_helper.from_array(np.full((2, 3), 2, np.float32), "w")
CHAIN = [node("Neg", ["x"], ["n"]), node("Exp", ["n"], ["y"])]
EXPECTED = {"x": ARRAY, "y": np.exp(-ARRAY)}
DEVICES = (small_models.CPU, small_models.CPU2)
COSTS = small_models.FakeCosts()


def write(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: tuple[onnx.TensorProto, ...] = (),
    declared: tuple[onnx.ValueInfoProto, ...] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights, value_info=declared)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "m.onnx")
    return folder / "m.onnx"


def run_split(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two devices in turn, so that each boundary is crossed."""
    plan = small_models.split(path, DEVICES, COSTS, "roundrobin", out_folder=path.parent / "plan")
    return small_models.run_plan(plan, feeds)


@pytest.mark.parametrize(
    "output", [X, info("x", FLOAT, None), info("x", FLOAT, [9]), onnx.ValueInfoProto(name="x")], ids=str
)
def test_an_output_that_is_an_input_has_the_type_of_the_input(tmp_path: Path, output: onnx.ValueInfoProto) -> None:
    path = write(tmp_path, CHAIN, [X], [Y, output])
    assert Graph.read(path).outputs[1] == TensorSpec("x", "float32", (2, 3))
    for name, array in run_split(path, {"x": ARRAY}).items():
        np.testing.assert_allclose(array, EXPECTED[name], rtol=1e-6)


def test_constants_that_are_outputs(tmp_path: Path) -> None:
    constant = node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones((2, 3), np.float32)))
    nodes = [constant, node("Add", ["x", "c"], ["a"]), node("Add", ["a", "w"], ["y"]), node("Shape", ["x"], ["s"])]
    outputs = [Y, info("c", FLOAT, [7]), info("w", FLOAT, None), info("s", INT64, [2])]
    split = run_split(write(tmp_path, nodes, [X], outputs, (WEIGHT,)), {"x": ARRAY})
    for name, expected in {"y": ARRAY + 3, "c": np.ones((2, 3)), "w": np.full((2, 3), 2), "s": [2, 3]}.items():
        np.testing.assert_array_equal(split[name], expected)


def test_a_model_without_nodes(tmp_path: Path) -> None:
    path = write(tmp_path, [], [X], [X, info("w", FLOAT, [2, 3])], (WEIGHT,))
    split = run_split(path, {"x": ARRAY})
    np.testing.assert_array_equal(split["w"], np.full((2, 3), 2))
    np.testing.assert_array_equal(split["x"], ARRAY)


@pytest.mark.parametrize("value", [{"value_strings": ["a", "é"]}, {"value_string": "no"}], ids=str)
def test_text_in_constant_nodes(tmp_path: Path, value: dict[str, object]) -> None:
    text = value.get("value_strings", ["no", "no"])
    nodes = [
        node("Constant", [], ["c"], **value),
        node("StringConcat", ["q", "c"], ["t"]),
        node("StringConcat", ["t", "c"], ["y"]),
    ]
    path = write(tmp_path, nodes, [info("q", TEXT, [2])], [info("y", TEXT, [2])])
    feeds = {"q": np.array(["x", "世"], object)}
    assert list(run_split(path, feeds)["y"]) == [q + c + c for q, c in zip(["x", "世"], text, strict=True)]


def test_sparse_weights(tmp_path: Path) -> None:
    path = write(tmp_path, [node("Add", ["x", "w"], ["y"])], [X], [Y], (WEIGHT,))
    model = onnx.load(path)
    del model.graph.initializer[:]
    values, indices = helper.make_tensor("w", FLOAT, [1], [5.0]), helper.make_tensor("i", INT64, [1], [4])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    onnx.save(model, path)
    expected = ARRAY + np.array([[0, 0, 0], [0, 5, 0]], np.float32)
    np.testing.assert_array_equal(run_split(path, {"x": ARRAY})["y"], expected)


def test_maps_are_outputs_and_stay_beside_their_operator(tmp_path: Path) -> None:
    nodes = [
        node("Softmax", ["x"], ["p"], axis=1),
        node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
        node("Neg", ["p"], ["y"]),
    ]
    maps = helper.make_map_type_proto(TEXT, helper.make_tensor_type_proto(FLOAT, []))
    path = write(tmp_path, nodes, [X], [Y, helper.make_value_info("z", helper.make_sequence_type_proto(maps))])
    assert Graph.read(path).outputs[1] == TensorSpec("z", "seq(map(object,float32))", ("?",))
    split = run_split(path, {"x": ARRAY})
    probabilities = [[row[label] for label in "abc"] for row in split["z"]]
    np.testing.assert_allclose(probabilities, -split["y"], rtol=1e-6)


def test_a_map_as_input(tmp_path: Path) -> None:
    nodes = [node("DictVectorizer", ["d"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])]
    maps = helper.make_map_type_proto(TEXT, helper.make_tensor_type_proto(FLOAT, []))
    path = write(tmp_path, nodes, [helper.make_value_info("d", maps)], [info("y", FLOAT, [1, 2])])
    split = run_split(path, {"d": {"b": 2.0}})  # type: ignore[dict-item]
    np.testing.assert_array_equal(split["y"], [[0, 2]])


def test_outputs_that_nobody_reads(tmp_path: Path) -> None:
    sizes = numpy_helper.from_array(np.array([1, 2]), "s")
    nodes = [node("Split", ["x", "s"], ["a", ""], axis=1), node("Neg", ["a"], ["y"])]
    path = write(tmp_path, nodes, [X], [info("y", FLOAT, [2, 1])], (sizes,))
    np.testing.assert_array_equal(run_split(path, {"x": ARRAY})["y"], -ARRAY[:, :1])


@pytest.mark.parametrize(
    "declared", [info("n", FLOAT, [9, 9]), info("n", FLOAT, [2]), info("n", TensorProto.INT32, [2, 3])], ids=str
)
def test_wrong_types_of_tensors_inside_are_ignored(tmp_path: Path, declared: onnx.ValueInfoProto) -> None:
    path = write(tmp_path, CHAIN, [X], [Y], declared=(declared,))
    np.testing.assert_allclose(run_split(path, {"x": ARRAY})["y"], EXPECTED["y"], rtol=1e-6)


@pytest.mark.parametrize("name", ["a/b:c d", "n" * 5000, "世界", "segment_000.onnx", "-x", "%s{0}"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    nodes = [node("Neg", [name], ["n"], name=name), node("Exp", ["n"], [f"{name}2"], name=f"{name}2")]
    path = write(tmp_path, nodes, [info(name, FLOAT, [2, 3])], [info(f"{name}2", FLOAT, [2, 3])])
    np.testing.assert_allclose(run_split(path, {name: ARRAY})[f"{name}2"], EXPECTED["y"], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), ()], ids=str)
def test_tensors_without_elements_and_scalars(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path, CHAIN, [info("x", FLOAT, shape)], [info("y", FLOAT, shape)])
    assert run_split(path, {"x": np.zeros(shape, np.float32)})["y"].shape == shape


def test_an_input_with_a_default_is_a_constant(tmp_path: Path) -> None:
    path = write(tmp_path, [node("Add", ["x", "w"], ["y"])], [X, info("w", FLOAT, [2, 3])], [Y], (WEIGHT,))
    plan = small_models.split(path, DEVICES, COSTS, "roundrobin", out_folder=tmp_path / "plan")
    assert plan.fixed_inputs == ("w",)
    assert [spec.name for spec in plan.inputs] == ["x"]
