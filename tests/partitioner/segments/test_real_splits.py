"""Every real model, cut at random into 2 to 12 convex segments over real engines, against the whole model."""

from __future__ import annotations

import random
from pathlib import Path

import networkx as nx
import numpy as np
import onnx
import pytest

from trisect.bench.model_packages import known_files
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.segments.pieces import Piece
from trisect.partitioner.segments.plan_of_pieces import plan_of_pieces
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.runtime import engines
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.runtime.verification import verify

SILERO = {
    "silero_vad.onnx": {"input.0": 1, "input.1": 576, "state.1": 1},
    "silero_vad_16k_op15.onnx": {"input.0": 1, "input.1": 576, "state.1": 1},
    "silero_vad_op18_ifless.onnx": {"input.0": 1, "input.1": 576, "state.1": 1},
}
SMALLER = {
    "ch_PP-OCRv4_det_infer.onnx": {
        "p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 64, "p2o.DynamicDimension.2": 96,
    },
    "ch_PP-OCRv4_rec_infer.onnx": {"p2o.DynamicDimension.0": 1, "x.2": 48, "p2o.DynamicDimension.1": 96},
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x.0": 1, "x.2": 48, "x.3": 96},
}  # fmt: skip
MODELS = sorted(name for name in known_files() if name.endswith(".onnx"))
TOLERANCE = 1e-3


def shapes_of(name: str) -> dict[str, int]:
    return SILERO.get(name) or SMALLER.get(name) or dict(known_files()[name].shapes)


def random_plan(graph: Graph, count: int, seed: int, folder: Path, capabilities: Capabilities) -> Plan:
    """Cut some topological order into so many runs, each on an engine drawn by lot from those that take it whole."""
    draw = random.Random(seed)
    tasks = task_graph(graph)
    devices = engines.find_devices("cpu:ort,cpu:openvino")
    refused = refusals(graph, tasks, devices, capabilities)
    weight = {task: draw.random() for task in tasks}
    order = list(nx.lexicographical_topological_sort(tasks, key=weight.__getitem__))
    cuts = sorted(draw.sample(range(1, len(order)), min(count, len(order)) - 1))
    position = {name: i for i, name in enumerate(graph.nodes)}
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        run = order[start:end]
        able = [device for device in devices if not any((task, device.id) in refused for task in run)]
        nodes = sorted((node for task in run for node in tasks.nodes[task]["nodes"]), key=position.__getitem__)
        # A task that only ONNX Runtime takes brings its whole run there.
        pieces.append(Piece(draw.choice(able or devices[:1]).id, tuple(nodes)))
    return plan_of_pieces(graph, pieces, devices, folder, strategy=f"random cuts, seed {seed}")


def feeds_for(name: str, graph: Graph) -> dict[str, np.ndarray] | None:
    if name not in SILERO:
        return None
    rng = np.random.default_rng(3)
    return {
        spec.name: np.full(spec.shape, 16_000, spec.dtype)
        if spec.dtype.startswith("int")
        else rng.standard_normal([int(d) for d in spec.shape]).astype(spec.dtype)
        for spec in graph.inputs
    }


def check(models: Path, name: str, count: int, seed: int, folder: Path) -> None:
    path = models / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {models} (make test fetches most)")
    graph = Graph.read(path, shapes_of(name))
    capabilities = Capabilities(folder.parent / "capabilities.json")
    plan = random_plan(graph, count, seed, folder, capabilities)
    assert 2 <= len(plan.segments) <= count
    feeds = feeds_for(name, graph)
    verification = verify(plan, path, feeds, tolerance=TOLERANCE)
    if not verification.ok and any("Quantize" in node.op_type for node in graph.nodes.values()):
        # Engines round differently before they quantise again, and one step of 8 bits is much more than the tolerance:
        # a split may be as far off as a few such steps, and as the engines are apart by themselves.
        assert verification.max_abs <= 3 * apart(path, graph, feeds, plan) + TOLERANCE
        return
    wrong = [
        (check.name, check.segment, check.max_abs) for check in verification.checks if not check.ok and check.is_output
    ]
    assert verification.ok, f"cut {count} ways with seed {seed}: {wrong}, from segment {verification.drift_segment}"


def apart(path: Path, graph: Graph, feeds: dict[str, np.ndarray] | None, plan: Plan) -> float:
    """How far OpenVINO's answers are from ONNX Runtime's, each with the whole model."""
    value = feeds if feeds is not None else generate_feeds(onnx.load(path, load_external_data=False), plan)
    options = LoadOptions(shapes=graph.shapes)
    ort, openvino = (engines.load(path, d, options).run(value) for d in engines.find_devices("cpu:ort,cpu:openvino"))
    return max(float(np.abs(ort[name] - openvino[name]).max()) for name in ort)


@pytest.mark.parametrize("name", MODELS)
def test_a_random_split_gives_the_whole_models_answers(models: Path, tmp_path: Path, name: str) -> None:
    check(models, name, 2 + MODELS.index(name) % 11, MODELS.index(name), tmp_path / "plan")


@pytest.mark.slow
@pytest.mark.parametrize("count", range(2, 13))
@pytest.mark.parametrize("name", MODELS)
def test_all_numbers_of_segments(models: Path, tmp_path: Path, name: str, count: int) -> None:
    for seed in range(3):
        check(models, name, count, 100 * seed + count, tmp_path / f"plan{seed}")
