"""Graph.read: shapes, costs, edges and constants of small models, known by hand or from ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tests.partitioner import small_models
from trisect.partitioner.graph import isolated_inference
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.runtime.tensors.tensor_spec import TensorSpec


def test_nodes_and_edges_of_an_mlp(tmp_path: Path) -> None:
    graph = Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=2, width=32), {"batch": 5})
    nodes = graph.digraph.nodes
    assert list(nodes) == ["MatMul_0", "Add_1", "Relu_2", "MatMul_3", "Add_4", "Relu_5"]
    matmul = nodes["MatMul_0"]
    assert matmul["flops"] == 2 * 5 * 32 * 32
    assert matmul["weight_bytes"] == 4 * 32 * 32
    assert matmul["bytes_read"] == 4 * (32 * 32 + 5 * 32)
    assert matmul["bytes_written"] == 4 * 5 * 32
    assert (matmul["dtype"], matmul["op_class"], matmul["constant"]) == ("float32", OpClass.MATVEC, False)
    assert matmul["input_shapes"] == ((5, 32), (32, 32))
    assert graph.digraph.edges["MatMul_0", "Add_1"]["tensors"] == {"m0": 4 * 5 * 32}
    assert graph.inputs == (TensorSpec("x", "float32", (5, 32)),)
    assert graph.outputs == (TensorSpec("y", "float32", (5, 32)),)


def test_the_same_node_changes_its_class_with_the_batch(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=1, width=256)
    result = [Graph.read(path, {"batch": b}).digraph.nodes["MatMul_0"]["op_class"] for b in (1, 256)]
    assert result == [OpClass.MATVEC, OpClass.MATMUL]


def test_unbound_unknown_and_negative_dimensions(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match=r"dimension 0 of input 'x'.*--shape batch=1"):
        Graph.read(path)
    with pytest.raises(InvalidInput, match=r"no dimension 'bach'.*batch"):
        Graph.read(path, {"batch": 1, "bach": 2})
    with pytest.raises(InvalidInput, match="invalid --shape batch=-1: expected a size of 0 or more"):
        Graph.read(path, {"batch": -1})
    assert Graph.read(path, {"x.0": 3}).inputs[0].shape == (3, 32)


def test_arithmetic_on_shapes_is_known_beforehand(tmp_path: Path) -> None:
    graph = Graph.read(small_models.shape_arithmetic(tmp_path / "m.onnx"), {"batch": 2, "tokens": 7})
    running = [n for n, constant in graph.digraph.nodes(data="constant") if not constant]
    assert [graph.digraph.nodes[n]["op_type"] for n in running] == ["Reshape", "Transpose"]
    np.testing.assert_array_equal(graph.folded["target"], [2, 7, 4, 16])
    assert graph.outputs[0].shape == (2, 4, 7, 16)


def test_bodies_stay_inside_and_captures_are_edges(tmp_path: Path) -> None:
    graph = Graph.read(small_models.branching(tmp_path / "m.onnx"))
    (choice,) = (n for n, op in graph.digraph.nodes(data="op_type") if op == "If")
    assert graph.digraph.nodes[choice]["op_class"] is OpClass.CONTROL_FLOW
    # The heavier branch multiplies and subtracts 16 elements each.
    assert graph.digraph.nodes[choice]["flops"] == 32
    assert {t for _, _, tensors in graph.digraph.in_edges(choice, data="tensors") for t in tensors} == {"h", "k"}


def test_external_weights_are_not_loaded(tmp_path: Path) -> None:
    path, size = tmp_path / "large.onnx", 3 << 30
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 14, 3 << 14])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n, width in (("x", 1 << 14), ("y", 3 << 14))
    ]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)  # sparse: takes no room
    code = (
        "import resource, sys; from trisect.partitioner.graph.model_graph import Graph;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "graph = Graph.read(sys.argv[1]);"
        "assert graph.digraph.nodes['MatMul_0']['weight_bytes'] == 3 << 30;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit_bytes < size / 24


def _llm_block(path: Path, packed: bool) -> Path:
    """One attention layer as onnxruntime-genai's builder writes it: hidden 64, 4 heads and 2 KV heads of 16."""
    quant = [
        ("qkv", 64, 128),
        ("o", 64, 64),
    ]
    inits = []
    for name, k, n in quant:
        inits.append(helper.make_tensor(f"{name}.q", TensorProto.UINT8, [n, k // 32, 16], bytes(n * k // 2), raw=True))
        inits.append(helper.make_tensor(f"{name}.s", TensorProto.FLOAT, [n, k // 32], [0.1] * (n * k // 32)))
    inits.append(helper.make_tensor("g", TensorProto.FLOAT, [64], [1.0] * 64))

    def nbits(name: str, k: int, n: int, source: str, target: str) -> onnx.NodeProto:
        return helper.make_node(
            "MatMulNBits",
            [source, f"{name}.q", f"{name}.s"],
            [target],
            name,
            domain="com.microsoft",
            K=k,
            N=n,
            bits=4,
            block_size=32,
        )

    attention = {"domain": "com.microsoft", "num_heads": 4, "kv_num_heads": 2}
    heads = ["qkv", "", ""] if packed else ["q", "k", "v"]
    split = [] if packed else [helper.make_node("Split", ["qkv", "sizes"], ["q", "k", "v"], "split", axis=2)]
    inits.append(helper.make_tensor("sizes", TensorProto.INT64, [3], [64, 32, 32]))
    nodes = [
        helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["n"], "norm", axis=-1, epsilon=1e-5),
        nbits("qkv", 64, 128, "n", "qkv"),
        *split,
        helper.make_node(
            "GroupQueryAttention", [*heads, "pk", "pv", "len", "total"], ["a", "k1", "v1"], "gqa", **attention
        ),
        nbits("o", 64, 64, "a", "p"),
        helper.make_node(
            "SkipSimplifiedLayerNormalization", ["x", "p", "g"], ["y", "", "", "sum"], "skip", domain="com.microsoft"
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 64]),
        helper.make_tensor_value_info("pk", TensorProto.FLOAT, ["batch", 2, "past", 16]),
        helper.make_tensor_value_info("pv", TensorProto.FLOAT, ["batch", 2, "past", 16]),
        helper.make_tensor_value_info("len", TensorProto.INT32, ["batch"]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "sum", "k1", "v1")]
    graph = helper.make_graph(nodes, "block", inputs, outputs, inits)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_shapes_through_operators_that_onnx_does_not_know(tmp_path: Path, packed: bool) -> None:
    path = _llm_block(tmp_path / "block.onnx", packed)
    graph = Graph.read(path, {"batch": 1, "tokens": 3, "past": 5})
    assert {spec.name: spec.shape for spec in graph.outputs} == {
        "y": (1, 3, 64),
        "sum": (1, 3, 64),
        "k1": (1, 2, 8, 16),
        "v1": (1, 2, 8, 16),
    }
    # The oracle: what ONNX Runtime really returns.
    feeds = {
        "x": np.ones((1, 3, 64), np.float32),
        "pk": np.ones((1, 2, 5, 16), np.float32),
        "pv": np.ones((1, 2, 5, 16), np.float32),
        "len": np.array([7], np.int32),
        "total": np.array(8, np.int32),
    }
    for name, array in small_models.run_whole(path, feeds).items():
        assert next(spec for spec in graph.outputs if spec.name == name).shape == array.shape
    nodes = graph.digraph.nodes
    assert nodes["qkv"]["flops"] == 2 * 3 * 64 * 128
    assert nodes["qkv"]["weight_bytes"] == 128 * 32 + 4 * 256
    assert nodes["gqa"]["op_class"] is OpClass.ATTENTION
    assert nodes["gqa"]["flops"] == 4 * 3 * 8 * (4 * 16 + 5)


HEAD = '<ir_version: 9, opset_import: ["": 18]>'


def _parsed(path: Path, text: str) -> Path:
    path.write_bytes(parser.parse_model(f"{HEAD} {text}").SerializeToString())
    return path


@pytest.mark.parametrize(
    ("parts", "wanted", "shape"), [(", b, c", "c", (4, 6)), ("a, , c", "c", (4, 6)), ("a, b, ", "b", (3, 8))]
)
def test_arithmetic_on_shapes_with_unnamed_outputs(tmp_path: Path, parts: str, wanted: str, shape: tuple[int, ...]):
    path = tmp_path / "m.onnx"
    model = parser.parse_model(
        f"{HEAD} g (float[2,3,4] x) => (float y) <int64[1] rest = {{-1}}> {{ s = Shape(x)"
        f" p, q, r = Split <axis = 0, num_outputs = 3> (s)"
        f" shape = Concat <axis = 0> ({wanted}, rest) y = Reshape(x, shape) }}"
    )
    model.graph.node[1].output[:] = [name.strip() for name in parts.split(",")]
    path.write_bytes(model.SerializeToString())
    graph = Graph.read(path)
    assert graph.outputs[0].shape == shape
    assert graph.folded["shape"].tolist() == [shape[0], -1]


def test_a_model_that_ends_shape_inference_is_one_error(tmp_path: Path):
    path = _parsed(
        tmp_path / "m.onnx",
        "g (float[1,1,4,4] x) => (float y) <float[4] s = {-3e38, 1, 2, 2}, int64[1] a = {0}, int64[1] b = {1}>"
        " { r = Resize(x, , s) y = Slice(r, a, b) }",
    )
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([-np.inf, 1, 2, 2], np.float32), "s"))
    onnx.save(model, path)
    with pytest.raises(InvalidModel, match=r"^m\.onnx: shape inference failed: its process ended \(SIGABRT\)"):
        Graph.read(path)


def test_shapes_are_inferred_without_data_propagation_where_that_takes_too_much(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(isolated_inference, "_MEMORY_LIMIT_BYTES", 100 << 20)
    text = "g (float[1000000] x) => (y) { a = Concat <axis = 0> (x, x) y = Concat <axis = 0> (a, a) }"
    assert Graph.read(_parsed(tmp_path / "m.onnx", text)).outputs[0].shape == (4_000_000,)


@pytest.mark.parametrize(
    "text",
    [
        "<int64[1] s = {1000000000000}> { big = ConstantOfShape(s) y = ReduceSum(big) }",
        "<int64 a = {0}, int64 b = {1000000000000}, int64 d = {1}> { big = Range(a, b, d) y = ReduceSum(big) }",
        "<int64[1] s = {4000}> { one = ConstantOfShape(s) c = Concat <axis = 0> (one, one) y = ReduceSum(c) }",
        "<int64[3] p = {4000, 1, 1}, int64[3] q = {1, 4000, 1}, int64[3] r = {1, 1, 4000}>"
        " { i = ConstantOfShape(p) j = ConstantOfShape(q) k = ConstantOfShape(r) m = Max(i, j, k) y = ReduceSum(m) }",
    ],
)
def test_nothing_large_is_folded(tmp_path: Path, text: str):
    graph = Graph.read(_parsed(tmp_path / "m.onnx", f"g () => (y) {text}"))
    assert all(array.size <= 4096 for array in graph.folded.values())
    assert not {"big", "c", "m"} & set(graph.folded)


def test_a_size_beyond_64_bits_is_not_folded(tmp_path: Path):
    text = f"g (float[{2**40},{2**40}] x) => (y) {{ n = Size(x) y = Neg(n) }}"
    assert Graph.read(_parsed(tmp_path / "m.onnx", text)).folded == {}


def test_shapes_in_external_data_are_read(tmp_path: Path):
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[10] x) => (float y) '
        "<int64[2] shape = {2, 5}> { r = Reshape(x, shape)  y = Neg(r) }"
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert Graph.read(tmp_path / "m.onnx").outputs == (TensorSpec("y", "float32", (2, 5)),)


def test_the_dtype_of_an_output_that_inference_cannot_reach_is_that_in_the_file(tmp_path: Path):
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 1]> g (float[3] x) => (float y) '
        "{ s = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (x)  y = Exp(s) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert [spec.dtype for spec in Graph.read(tmp_path / "m.onnx").outputs] == ["float32"]
