"""Keys are equal for nodes that an engine computes alike, over models and sizes, and units are models of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.trial_units import TrialUnits
from trisect.partitioner.problem.value_ranges import value_ranges


@pytest.fixture
def units_of(tmp_path: Path):
    def read(text: str, weights=None, opset: int = 17) -> tuple[TrialUnits, dict[str, str]]:
        head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
        graph = Graph.read(small_models.write(tmp_path / "m.onnx", f"{head} {text}", weights))
        units = TrialUnits(graph, value_ranges(graph))
        return units, {name: next(units.of_task((name,))).key for name in graph.nodes}

    return read


def keys(units_of, *arguments) -> list[str]:
    return list(units_of(*arguments)[1].values())


def test_sizes_do_not_matter_but_ones_and_zeros_do(units_of):
    small, large, single, empty = (
        keys(units_of, f"g (float[{n},4] x) => (float[{n},4] y) {{ y = Relu(x) }}")[0] for n in (2, 300, 1, 0)
    )
    assert small == large
    assert len({small, single, empty}) == 3


def test_attributes_dtypes_and_classes_of_constants_matter(units_of):
    def sliced(start: int, dtype: str = "float") -> str:
        text = f"g ({dtype}[9] x) => ({dtype}[a] y) {{ y = Slice(x, s, e) }}"
        return keys(units_of, text, {"s": np.array([start]), "e": np.array([2**62])})[0]

    assert sliced(2) == sliced(3)
    assert len({sliced(0), sliced(1), sliced(2), sliced(-1), sliced(-3), sliced(2, "double")}) == 6
    softmax = [keys(units_of, f"g (float[2,3] x) => (float[2,3] y) {{ y = Softmax<axis={a}>(x) }}")[0] for a in (0, 1)]
    assert softmax[0] != softmax[1]


def test_wide_numbers_are_another_class_except_as_indices(units_of):
    text = """g (int64[3] x, float[9] t) => (int64[3] y, int64[3] z, float[3] g) {{
        m = Clip(x, low, high) y = Neg(x) z = Neg(m) g = Gather(t, {}) }}"""
    limits = {"low": np.array(0), "high": np.array(9)}
    units, by_node = units_of(text.format("x"), limits)
    assert by_node["Neg_1"] != by_node["Neg_2"]
    gather = by_node["Gather_3"]
    assert units.kinds(["Gather_3"]) == {}
    assert gather == units_of(text.format("m"), limits)[1]["Gather_3"]


def test_a_unit_computes_what_its_node_computes(units_of):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((40, 30)).astype(np.float32)
    text = "g (float[20,40] x) => (float[20,30] y) { m = MatMul(x, w) y = Relu(m) }"
    units, _ = units_of(text, {"w": weight})
    model = units.model(("MatMul_0",))
    x = rng.standard_normal((20, 40)).astype(np.float32)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], x @ weight, rtol=1e-5)
    shrunk = units.model(("MatMul_0",), shrunk=True)
    rows, inner = (dim.dim_value for dim in shrunk.graph.input[0].type.tensor_type.shape.dim)
    assert rows < 20
    assert inner < 40
    (part,) = ReferenceEvaluator(shrunk).run(None, {"x": x[:rows, :inner]})
    np.testing.assert_allclose(part, x[:rows, :inner] @ weight[:inner, : part.shape[1]], rtol=1e-5)


def test_what_the_reference_computes_in_a_python_loop_is_shrunk_earlier(units_of):
    text = "g (float[1,16,32,32] x) => (float[1,16,32,32] y, float[1,16,32,32] z) {{ y = Relu(x) z = {}(y) }}"
    units, _ = units_of(text.format("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"))
    assert units.is_small(["Relu_0"])
    assert not units.is_small(["MaxPool_1"])


def test_sizes_that_attributes_mention_are_not_shrunk(units_of):
    text = "g (float[1,64,40,40] x) => (float[a,b,c,d] y) { y = Conv<kernel_shape=[20,20], group=64>(x, w) }"
    units, _ = units_of(text, {"w": np.ones((64, 1, 20, 20), np.float32)})
    model = units.model(("Conv_0",), shrunk=True)
    assert list(model.graph.initializer[0].dims)[2:] == [20, 20]
    channels = model.graph.initializer[0].dims[0]
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == channels < 64
    assert {a.name: a.i for a in model.graph.node[0].attribute}["group"] == channels


def test_the_reference_decides_only_what_it_defines(units_of):
    softmax = "g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }"
    assert units_of(softmax)[0].use_reference(["Softmax_0"])
    assert units_of(softmax, None, 11)[0].is_old(["Softmax_0"])  # of another meaning then
    assert not units_of(softmax)[0].is_old(["Softmax_0"])
    nonzero = "g (float[2,3] x) => (int64[2,a] y) { y = NonZero(x) }"
    assert not units_of(nonzero)[0].use_reference(["NonZero_0"])
