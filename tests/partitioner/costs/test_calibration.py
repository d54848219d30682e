"""A model that was run whole on a device costs there what it took, and the same question has the same answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.partitioner.costs import calibration
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.problem_builder import make_problem, task_graph
from trisect.partitioner.strategies.search_based.auto import auto
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.engines import find_devices

DEVICES = find_devices("cpu:ort,cpu:openvino")
IDS = [device.id for device in DEVICES]


def costs(source: str = "measured", times_s: tuple[float, float] = (1e-6, 1e-6)) -> ProfileCosts:
    def points(time_s: float) -> tuple[Point, ...]:
        return tuple(Point(f"{c}:{n}", c, "Any", 10.0 * n, 8 * n, time_s * n) for c in OpClass for n in (1, 1000))

    devices = {
        device.id: DeviceProfile(device.id, device.name, device.engine_version, 1e-5, 1e-7, points(time_s))
        for device, time_s in zip(DEVICES, times_s, strict=True)
    }
    links = tuple(Link(a, b, 1e-6, None) for a in IDS for b in IDS if a != b)
    return ProfileCosts(Profile(Provenance(source, "", "", "", "", {}, None), "float32", devices, links))


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph.read(small_models.mlp(tmp_path / "m.onnx", layers=2), {"batch": 1})


def test_where_only_the_whole_is_known_it_takes_what_it_was_measured_to_take(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    took = {"cpu:ort": 0.5, "cpu:openvino": 0.25}
    monkeypatch.setattr(calibration, "_look", lambda graph, device, *_: calibration._Looked(took[device.id]))
    plain = make_problem(graph, DEVICES, costs())
    predicted = {d: sum(plain.time(task, d) for task in plain.graph) for d in IDS}
    wanted = {d: took[d] / predicted[d] for d in IDS}
    monkeypatch.setattr(calibration, "_FARTHEST", 2 * max(*wanted.values(), *(1 / s for s in wanted.values())))
    found = calibration.calibrate(graph, costs(), DEVICES, predicted, tmp_path / "known.json")
    problem = make_problem(graph, DEVICES, costs().scaled(found.scales))
    for device in IDS:
        assert sum(problem.time(task, device) for task in problem.graph) == pytest.approx(took[device])
    monkeypatch.setattr(calibration, "_look", lambda *_: pytest.fail("measured twice"))
    assert calibration.calibrate(graph, costs(), DEVICES, predicted, tmp_path / "known.json") == found


def test_nodes_take_their_share_of_their_kernel_and_stay_together(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = list(graph.nodes)
    kernels = [([0, 1], 3e-3), *(([i], 1e-3) for i in range(2, len(names)))]
    monkeypatch.setattr(calibration, "_look", lambda *_: calibration._Looked(1.0, kernels))
    found = calibration.calibrate(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "known.json")
    assert found.scales == {}
    assert found.together == ((names[0], names[1]),) * 2
    tasks = task_graph(graph, together=found.together)
    assert tasks.nodes[names[0]]["nodes"] == (names[0], names[1])
    problem = make_problem(graph, DEVICES, costs(), tasks=tasks, nodes_s=found.nodes_s)
    assert problem.time(names[0], "cpu:ort") == pytest.approx(3e-3)
    assert sum(problem.time(task, "cpu:ort") for task in tasks) == pytest.approx(3e-3 + 1e-3 * (len(names) - 2))
    assert all(found.nodes_s["cpu:ort"][name] > 0 for name in names)


def test_a_real_model_is_really_run(graph: Graph, tmp_path: Path):
    found = calibration.calibrate(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "known.json")
    assert set(found.nodes_s) == set(IDS)
    for known_s in found.nodes_s.values():
        assert set(known_s) == set(graph.nodes)
        assert 1e-7 < sum(known_s.values()) < 1.0
    (tmp_path / "known.json").write_bytes(b"{damaged")
    again = calibration.calibrate(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "known.json")
    assert set(again.nodes_s) == set(IDS)


def test_a_model_too_large_or_too_slow_is_only_timed_as_a_whole(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calibration, "_look", lambda *_: pytest.fail("looked at closely"))
    slow = calibration.calibrate(graph, costs(), DEVICES, dict.fromkeys(IDS, 5.0), tmp_path / "slow.json")
    assert set(slow.scales) == set(IDS)
    assert slow.nodes_s == {}
    monkeypatch.setattr(calibration, "_LARGEST_BYTES", 0)
    large = calibration.calibrate(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "large.json")
    assert set(large.scales) == set(IDS)


def test_a_device_that_cannot_run_it_is_left_as_it_is(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "_look", lambda *_: calibration._Looked(1e-3))
    predicted = {"cpu:ort": 1e-4, "cpu:openvino": float("inf")}
    found = calibration.calibrate(graph, costs(), DEVICES, predicted, tmp_path / "known.json")
    assert set(found.scales) == {"cpu:ort"}


def test_engines_on_one_processor_take_turns_and_a_split_must_gain_clearly(graph: Graph):
    here = make_problem(graph, DEVICES, costs(times_s=(1e-6, 0.95e-6)))
    assert len(set(here.shared.values())) == 1
    assert len(set(auto(here).placement.values())) == 1
    assert make_problem(graph, DEVICES, costs(), objective="throughput").shared == {}
    assert make_problem(graph, DEVICES, costs("published")).shared == {}
