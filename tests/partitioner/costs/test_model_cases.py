"""A model's operators become benchmark cases at the model's shapes, equal ones once and without small ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from trisect.partitioner.costs.model_cases import model_cases
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.engines import find_devices, load

(ORT,) = find_devices("cpu:ort")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]> m (float[256, 64] x, int64[4] i) => (float[4, 64] y) {
    a = MatMul(x, v) b = MatMul(a, w) t = Add(tiny, tiny) c = Add(b, t) d = Gather(c, i) y = Relu(d) }"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in ("v", "w")}
    weights["tiny"] = np.ones(64, np.float32)
    return Graph.read(small_models.write(tmp_path / "m.onnx", TEXT, weights))


def test_each_kind_once_and_the_heaviest_first(graph):
    with model_cases(graph) as cases:
        kinds = [(case.op_type, case.op_class) for case in cases]
        assert kinds == [("MatMul", OpClass.MATMUL), ("Add", OpClass.ELEMENTWISE)]
        product = cases[0]
        assert product.flops == 2 * 256 * 64 * 64
        assert product.size_bytes == 4 * (2 * 256 * 64 + 64 * 64)
        assert all(case.name.startswith(f"{case.op_class.value}:{case.op_type} float32[256,64] ") for case in cases)


def test_they_are_models_that_run_with_the_inputs_that_they_bring(graph):
    with model_cases(graph) as cases:
        files = []
        for case in cases:
            module = load(case.build(), ORT)
            module.bind(case.feeds(), case.buffers()).run()
            (out,) = module.run(case.feeds()).values()
            assert out.shape == (256, 64)
            files.append(case.build())
        assert all(isinstance(file, Path) and file.is_file() for file in files)
    assert not any(file.exists() for file in files)


def test_the_names_do_not_depend_on_the_weights_values(graph, tmp_path):
    other = {name: np.zeros((64, 64), np.float32) for name in ("v", "w")} | {"tiny": np.ones(64, np.float32)}
    (tmp_path / "other").mkdir()
    twin = Graph.read(small_models.write(tmp_path / "other" / "m.onnx", TEXT, other))
    with model_cases(graph) as cases, model_cases(twin) as twins:
        assert [case.name for case in cases] == [case.name for case in twins]
