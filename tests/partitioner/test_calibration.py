"""A model that was run whole on a device costs there what it took, and the same question has the same answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.partitioner import calibration
from trisect.partitioner.graph import Graph
from trisect.partitioner.problem import make_problem
from trisect.partitioner.strategies.auto import auto
from trisect.profiles.costs import ProfileCosts
from trisect.profiles.features import OpClass
from trisect.profiles.profile import DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.engines import find

DEVICES = find("cpu:ort,cpu:openvino")
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


def test_the_whole_takes_what_it_was_measured_to_take(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    took = {"cpu:ort": 0.5, "cpu:openvino": 0.25}
    monkeypatch.setattr(calibration, "_measure", lambda graph, device: took[device.id])
    plain = make_problem(graph, DEVICES, costs())
    predicted = {d: sum(plain.time(task, d) for task in plain.graph) for d in IDS}
    wanted = {d: took[d] / predicted[d] for d in IDS}
    monkeypatch.setattr(calibration, "_FARTHEST", 2 * max(*wanted.values(), *(1 / s for s in wanted.values())))
    scaled = calibration.calibrated(graph, costs(), DEVICES, predicted, tmp_path / "known.json")
    problem = make_problem(graph, DEVICES, scaled)
    for device in IDS:
        assert sum(problem.time(task, device) for task in problem.graph) == pytest.approx(took[device])
    monkeypatch.setattr(calibration, "_measure", lambda graph, device: pytest.fail("measured twice"))
    assert calibration.calibrated(graph, costs(), DEVICES, predicted, tmp_path / "known.json").scales == scaled.scales


def test_a_real_model_is_really_run(graph: Graph, tmp_path: Path):
    found = calibration.calibrated(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "known.json")
    assert set(found.scales) == set(IDS)
    assert all(1e-3 < scale < 1e3 for scale in found.scales.values())
    (tmp_path / "known.json").write_bytes(b"{damaged")
    again = calibration.calibrated(graph, costs(), DEVICES, dict.fromkeys(IDS, 1e-4), tmp_path / "known.json")
    assert set(again.scales) == set(IDS)


def test_a_device_that_cannot_run_it_is_left_as_it_is(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "_measure", lambda graph, device: 1e-3)
    predicted = {"cpu:ort": 1e-4, "cpu:openvino": float("inf")}
    found = calibration.calibrated(graph, costs(), DEVICES, predicted, tmp_path / "known.json")
    assert set(found.scales) == {"cpu:ort"}


def test_engines_on_one_processor_take_turns_and_a_split_must_gain_clearly(graph: Graph):
    here = make_problem(graph, DEVICES, costs(times_s=(1e-6, 0.95e-6)))
    assert len(set(here.shared.values())) == 1
    assert len(set(auto(here).placement.values())) == 1
    assert make_problem(graph, DEVICES, costs(), objective="throughput").shared == {}
    assert make_problem(graph, DEVICES, costs("published")).shared == {}
