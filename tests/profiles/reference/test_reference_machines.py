"""Published machines reproduce the published figures, name their sources, and never count as measured."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import permutations
from pathlib import Path

import networkx as nx
import pytest

from trisect.partitioner.strategies import propose
from trisect.profiles import reference
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.stored import profile_store as store
from trisect.runtime.errors import InvalidProfile, UnknownDevice
from trisect.scheduler.problem.platform import Platform
from trisect.scheduler.problem.problem import Problem

CPU, GPU, NPU = (f"{kind}:openvino" for kind in ("cpu", "gpu", "npu"))
MACHINES = [reference.machine(name) for name in reference.names()]
ON_EACH = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)


@pytest.fixture(scope="module")
def core_ultra() -> ProfileCosts:
    return ProfileCosts(reference.machine("intel-core-ultra-7-155h").profile)


def product(rows: int, size: int, op_class: OpClass) -> OpFeatures:
    moved = 4 * size * size + 4 * rows * size
    return OpFeatures("MatMul", op_class, 2.0 * rows * size * size, moved, 4 * rows * size, 4 * size * size, "float32")


def times(costs: ProfileCosts, features: OpFeatures) -> dict[str, float]:
    return {device: costs.node_time_s(features, device) for device in (CPU, GPU, NPU)}


def faster(result: dict[str, float], best: str) -> float:
    """The speed-up of the fastest device over the second."""
    return min(time for device, time in result.items() if device != best) / result[best]


# What arXiv:2409.14803 publishes of a machine with an Intel Core Ultra, one test for each statement.


@pytest.mark.parametrize("size", [512, 1024, 4096])
def test_the_npu_is_58_6_percent_faster_at_matrix_vector(core_ultra, size):
    assert faster(times(core_ultra, product(1, size, OpClass.MATVEC)), NPU) == pytest.approx(1.586, rel=1e-3)


@pytest.mark.parametrize("size", [512, 1024])
def test_the_gpu_is_22_6_percent_faster_at_matrix_matrix(core_ultra, size):
    assert faster(times(core_ultra, product(size, size, OpClass.MATMUL)), GPU) == pytest.approx(1.226, rel=1e-3)


def test_the_gpu_is_2_7_times_as_fast_at_lstm(core_ultra):
    lstm = OpFeatures("LSTM", OpClass.RECURRENT, 3e7, 2**22, 2**14, 2**22, "float32")
    assert faster(times(core_ultra, lstm), GPU) == pytest.approx(2.7, rel=1e-3)


@pytest.mark.parametrize("op_class", [OpClass.CONV, OpClass.ATTENTION])
def test_the_npu_is_3_2_times_as_fast_at_video_classification_and_llm_inference(core_ultra, op_class):
    work = OpFeatures("Conv", op_class, 6e8, 2**24, 2**22, 2**23, "float32")
    assert faster(times(core_ultra, work), NPU) == pytest.approx(3.2, rel=1e-3)


def test_the_cpu_is_best_at_dot_products(core_ultra):
    """An elementwise product and a sum."""
    for count in (1 << 12, 1 << 20, 1 << 26):
        parts = (
            OpFeatures("Mul", OpClass.ELEMENTWISE, count, 8 * count, 4 * count, 0, "float32"),
            OpFeatures("ReduceSum", OpClass.NORM, count, 4 * count, 4, 0, "float32"),
        )
        result = {device: sum(core_ultra.node_time_s(part, device) for part in parts) for device in (CPU, GPU, NPU)}
        assert faster(result, CPU) > 1


def test_the_npu_draws_half_the_power_or_less():
    devices = reference.machine("intel-core-ultra-7-155h").profile.devices
    drawn = {name: device.power_w for name, device in devices.items()}
    assert None not in drawn.values()
    assert 2 * drawn[NPU] <= min(drawn[CPU], drawn[GPU])


def test_plans_assign_operators_as_the_paper_does(core_ultra):
    machine = reference.machine("intel-core-ultra-7-155h")
    graph = nx.DiGraph([("product", "vector"), ("vector", "lstm")])
    graph.nodes["product"]["features"] = product(2048, 2048, OpClass.MATMUL)
    graph.nodes["vector"]["features"] = product(1, 8192, OpClass.MATVEC)
    graph.nodes["lstm"]["features"] = OpFeatures("LSTM", OpClass.RECURRENT, 3e9, 2**29, 2**14, 2**29, "float32")
    problem = Problem.of(
        graph,
        machine.devices,
        lambda task, device: core_ultra.node_time_s(graph.nodes[task]["features"], device),
        Platform({pair: core_ultra.link(*pair) for pair in permutations((d.id for d in machine.devices), 2)}),
    )
    assert propose(problem, "opclass").placement == {"product": GPU, "vector": NPU, "lstm": GPU}


# Of every machine.


@ON_EACH
def test_a_machine_has_all_costs_and_is_marked_as_published(machine):
    costs = ProfileCosts(machine.profile)
    assert machine.profile.provenance.source == "published"
    assert {device.reality for device in machine.devices} == {"published"}
    assert not any(device.is_real for device in machine.devices)
    for device in machine.devices:
        for op_class in set(OpClass) - {OpClass.SHAPE}:
            small, large = (
                costs.node_time_s(OpFeatures("Any", op_class, 10.0 * n, 4 * n, 4 * n, 0, "float32"), device.id)
                for n in (10**6, 10**8)
            )
            assert 0 < small < large
        assert costs.call_overhead_s(device.id) > 0
        others = [other for other in machine.devices if other is not device]
        assert all(costs.link(device.id, other.id).time_s(10**9) > 1e-3 for other in others)


@ON_EACH
def test_every_figure_has_a_source(machine):
    assert len(machine.figures) > 10
    for key, figure in machine.figures.items():
        assert figure.kind in ("published", "derived", "assumed"), key
        assert figure.source in machine.sources or figure.kind == "assumed", key
        assert figure.how or figure.kind == "published", key
    assert all(len(text) > 30 for text in machine.sources.values())
    assert any(figure.kind == "published" for figure in machine.figures.values())


@ON_EACH
def test_no_device_exceeds_the_bandwidth_of_its_memory(machine):
    for device in machine.devices:
        own = 4.8e12 if device.engine == "cuda" else machine.figures["memory"].value
        assert machine.figures[f"{device.id} matvec"].value <= own


@ON_EACH
def test_its_profile_can_be_saved_and_loaded(machine, tmp_path: Path):
    path = tmp_path / "published.json"
    store.save(machine.profile, path)
    assert store.load(path) == machine.profile


def test_an_unknown_machine_is_refused_with_the_known_ones():
    with pytest.raises(UnknownDevice, match=r"did you mean nvidia-h200\? there are: amd-ryzen-ai-9-hx-370"):
        reference.machine("nvidia-h100")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.pop("sources"), "reference profile of .* is malformed"),
        (lambda d: d["devices"][0]["rates"]["matmul"].update(source="nobody"), "cpu:ort matmul has no source"),
        (lambda d: d["devices"][0]["rates"]["matmul"].update(how=""), "is derived, but does not state how"),
        (lambda d: d["devices"][1]["power_w"].update(value=-1), "gpu:cuda power is impossible"),
        (lambda d: d["links"][0].update(speed=3), "reference profile of .* is malformed"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(spoil, message):
    content = json.loads((files("trisect.profiles.reference") / "nvidia-h200.json").read_bytes())
    spoil(content)
    with pytest.raises(InvalidProfile, match=message) as caught:
        reference.read("nvidia-h200", json.dumps(content).encode())
    assert "\n" not in str(caught.value)
