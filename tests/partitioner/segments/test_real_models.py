"""Real models with real weights, cut into many pieces, against the unsplit model. `make test` fetches them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, CPU2, FakeCosts
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel.op_features import OpClass

DET = {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 64, "p2o.DynamicDimension.2": 96}
REC = {"p2o.DynamicDimension.0": 1, "x.2": 48, "p2o.DynamicDimension.1": 96}
MODELS: dict[str, dict[str, int]] = {
    "ch_PP-OCRv4_det_infer.onnx": DET,
    "ch_PP-OCRv4_rec_infer.onnx": REC,
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x.0": 1, "x.2": 48, "x.3": 96},
    "silero_vad.onnx": {"input.0": 1, "input.1": 576, "state.1": 1},
}
ATTEMPTS = ["auto", "single", "opclass", "test-blocks:2", "test-blocks:6", "test-blocks:12", "test-random:0"]


def find(models: Path, name: str) -> Path:
    """A model anywhere below the folder; skips where it is not."""
    result = sorted(models.rglob(name)) if models.is_dir() else []
    if not result:
        pytest.skip(f"{name} is not in {models} (make test fetches it)")
    return result[0]


def feeds_for(graph: Graph) -> dict[str, np.ndarray]:
    """Numbers such as the models expect: noise, and a sampling rate."""
    rng = np.random.default_rng(3)
    return {
        spec.name: np.full(spec.shape, 16_000, spec.dtype)
        if spec.dtype.startswith("int")
        else rng.standard_normal([int(d) for d in spec.shape]).astype(spec.dtype)
        for spec in graph.inputs
    }


@pytest.mark.parametrize("name", MODELS)
def test_split_equals_whole(models: Path, tmp_path: Path, name: str) -> None:
    path = find(models, name)
    graph = Graph.read(path, MODELS[name])
    feeds = feeds_for(graph)
    expected = small_models.run_whole(path, feeds)
    for spec in graph.outputs:
        assert all(d in ("?", n) for d, n in zip(spec.shape, expected[spec.name].shape, strict=True))
    pieces, values = [], []
    for attempt in ATTEMPTS:
        plan = small_models.split(
            path, [CPU, CPU2], FakeCosts(), attempt, shapes=MODELS[name], out_folder=tmp_path / "plan"
        )
        pieces.append(len(plan.segments))
        values.append(plan.value)
        got = small_models.run_plan(plan, feeds)
        for output, array in expected.items():
            np.testing.assert_allclose(got[output], array, rtol=1e-3, atol=1e-4, err_msg=f"{attempt}: {output}")
    assert pieces[1] == 1
    assert values[0] <= values[1] * (1 + 1e-9)
    assert max(pieces) > 1


def test_every_tensor_of_the_detector_has_a_shape_and_its_work_is_convolution(models: Path) -> None:
    graph = Graph.read(find(models, "ch_PP-OCRv4_det_infer.onnx"), DET)
    running = [data for _, data in graph.digraph.nodes(data=True) if not data["constant"]]
    assert all("?" not in shape for data in running for shape in data["output_shapes"])
    convolution = sum(data["flops"] for data in running if data["op_class"] is OpClass.CONV)
    assert convolution > 0.9 * sum(data["flops"] for data in running)


def test_nested_if_with_both_sampling_rates(models: Path, tmp_path: Path) -> None:
    path = find(models, "silero_vad.onnx")
    graph = Graph.read(path, MODELS["silero_vad.onnx"])
    assert OpClass.CONTROL_FLOW in {data["op_class"] for _, data in graph.digraph.nodes(data=True)}
