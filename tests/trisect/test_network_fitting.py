"""Fitting cut overheads on synthetic networks, and splits that use them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect import api, network_fitting
from trisect.partitioner.costs import kernel_breakdown, network_measurement
from trisect.partitioner.costs.model_costs import segment_terms_of
from trisect.partitioner.graph.model_graph import Graph
from trisect.profiles.costmodel import fitted_models as fitted
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.fitted_models import fitted_models
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.costmodel.regression import Regression
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from trisect.profiles.stored.profile_store import default_path, save
from trisect.profiles.stored.segment_store import load_segments, segments_path
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.common.kernels import Kernel
from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment

DEVICES = "cpu:ort,cpu:openvino"


def plain_profile(devices: list[Device]) -> Profile:
    """Every class of operator at 10 GFLOP/s and 10 GB/s."""
    points = [
        Point(f"{kind.value}:{size}", kind, "any", float(size), size, size / 1e10)
        for kind in OpClass
        for size in (10**5, 10**7)
    ]
    profiles = {d.id: DeviceProfile(d.id, d.name, d.engine_version, 1e-5, 1e-6, tuple(points)) for d in devices}
    links = tuple(Link(a.id, b.id, 2e-5, None) for a in devices for b in devices if a is not b)
    here = Provenance("measured", platform.node(), "", "", "", {}, None)
    return Profile(here, "float32", profiles, links)


SPEED = {"cpu:ort": 1.0, "cpu:openvino": 1.3}


def time_by_rule_s(graph: Graph, nodes: Sequence[str], device: str) -> float:
    """What nodes take on a device: by the model of costs without any measurement, times a factor of the device."""
    return DeviceModel(Regression()).time_s(segment_terms_of(graph, nodes)) * SPEED[device]


def segment_graph(plan: Plan, segment: Segment) -> Graph:
    return Graph.read(Path(plan.folder) / segment.file)


def timed_by_rule(plan: Plan, feeds: Mapping[str, object], **_: object) -> PlanTiming:
    """Takes the place of running a plan."""
    graphs = [(segment_graph(plan, segment), segment.device) for segment in plan.segments]
    times_s = tuple(time_by_rule_s(graph, list(graph.nodes), device) for graph, device in graphs)
    return PlanTiming(sum(times_s) + 1e-5, 0.0, times_s, (0.0,) * len(times_s), 5, None)


def kernels_by_rule(plan: Plan, segment: Segment, *_: object) -> tuple[Kernel, ...]:
    """Takes the place of the engines' profilers: each node is a kernel."""
    graph = segment_graph(plan, segment)
    return tuple(Kernel((node,), time_by_rule_s(graph, [node], segment.device)) for node in graph.nodes)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(network_measurement, "run_trial", timed_by_rule)
    monkeypatch.setattr(kernel_breakdown, "run_trial", timed_by_rule)
    monkeypatch.setattr(kernel_breakdown, "_measure_kernels", kernels_by_rule)
    monkeypatch.setattr(kernel_breakdown, "_MIDDLE_ROWS", (64,))
    monkeypatch.setattr(fitted, "_MIN_SEGMENTS", 40)
    monkeypatch.setattr(fitted, "_MIN_BESIDE_SHIPPED", 40)
    (tmp_path / "m.onnx").write_bytes(synthetic_network(101))
    return tmp_path


def test_a_split_uses_the_fitted_overheads_and_fitting_resumes(place: Path) -> None:
    reports: list[str] = []
    store = network_fitting.fit_on_networks(
        DEVICES, budget_s=1.0, progress=lambda done, all_, what: reports.append(what)
    )
    while min(map(len, store.devices.values())) < 40:
        before = store.networks
        store = network_fitting.fit_on_networks(DEVICES, budget_s=1.0)
        assert store.networks > before
    assert load_segments(segments_path()) == store
    assert reports[0] == "network 0"

    devices = engines.find_devices(DEVICES)
    models = fitted_models(devices, segments_path())
    again = fitted_models(devices, segments_path())  # from disk
    known = plain_profile(devices)
    costs = network_fitting.costs_of(known, devices)
    assert costs.models
    graph = Graph.read(place / "m.onnx")
    problem = small_models.inputs_of(graph, devices, costs).problem
    for other in (ProfileCosts(known, models), ProfileCosts(known, again)):
        assert small_models.inputs_of(graph, devices, other).problem.times_s == problem.times_s
    times = {task: problem.time(task, "cpu:ort") for task in problem.graph}
    heaviest = max(problem.graph, key=lambda task: problem.graph.nodes[task]["features"].flops)
    assert times[heaviest] > 3 * min(times.values())
    crossing = {name for _, _, data in problem.graph.edges(data=True) for name in data["tensors"]}
    assert crossing <= problem.boundary_costs.keys()
    assert all(
        min(problem.boundary_costs[name].leave_s) > 0 and min(problem.boundary_costs[name].enter_s) > 0
        for name in crossing
    )
    extended = network_fitting.fit_on_networks(DEVICES, budget_s=1e-6, model=place / "m.onnx")
    own = [row for rows in extended.devices.values() for row in rows if row.origin == "plan"]
    assert len([row for row in own if not row.is_kernel]) == 2  # the whole on each device
    assert len([row for row in own if row.is_kernel]) > 2
    costs = network_fitting.costs_of(known, devices)
    assert costs.models
    for device in devices:
        own = [row for row in load_segments(segments_path()).of(device) if row.origin == "plan"]
        (row,) = [row for row in own if not row.is_kernel]
        assert costs.models[device.id].time_s(row.terms) == pytest.approx(row.time_s, rel=0.3)
    problem = small_models.inputs_of(graph, devices, costs).problem
    save(known, default_path())
    plan = api.split(place / "m.onnx", DEVICES, measure=False)
    alone = [api.split(place / "m.onnx", DEVICES, f"single:{device}").value for device in problem.device_ids]
    assert plan.value <= min(alone) * (1 + 1e-6)
    assert plan.predicted.latency_s > 0


def test_without_segments_only_the_profile_is_used(place: Path) -> None:
    nothing = Profile(Provenance("measured", "", "", "", "", {}, None), "float32", {}, ())
    models = network_fitting.costs_of(nothing, engines.find_devices(DEVICES)).models
    assert all(model.origin and not model.rows for model in models.values())  # those that ship


def test_fitting_on_one_device_is_refused(place: Path) -> None:
    with pytest.raises(InvalidInput, match="expected two devices or more, found cpu:ort"):
        network_fitting.fit_on_networks("cpu:ort", budget_s=1.0)
