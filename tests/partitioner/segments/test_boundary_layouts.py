"""Images cross segment boundaries in NHWC layout where both sides compute in it, and results stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, CPU2, GPU, FakeCosts
from trisect.partitioner.costs import channels_last
from trisect.partitioner.planning.cost_correction import measured_segments
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.partitioner.planning.preparation import prepare
from trisect.partitioner.segments import boundary_layouts
from trisect.profiles.measuring.plan_trial import PlanTiming
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices, keeps_channels_last
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.verification import verify

FEEDS = {"x": np.random.default_rng(3).standard_normal((1, 4, 8, 6)).astype(np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """a, b, c and d produce images; the mean of b is no image, and c is also an output."""
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for i in range(4)}
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[1,4,8,6] x) => (float[1,4,8,6] c, float[1,4] m, float[1,4,8,6] y) {
        a = Conv<pads = [1,1,1,1]>(x, w0)  b0 = Conv<pads = [1,1,1,1]>(a, w1)  b = Relu(b0)
        m = ReduceMean<axes = [2,3], keepdims = 0>(b)
        c = Conv<pads = [1,1,1,1]>(b, w2)  d = Conv<pads = [1,1,1,1]>(a, w3)  e = Add(c, d)  y = Relu(e)
    }"""
    path = small_models.write(tmp_path / "m.onnx", text, weights)
    named = onnx.load(path)
    for node in named.graph.node:
        node.name = node.output[0]
    onnx.save(named, path)
    return path


def placed(model: Path, folder: Path, devices: list[Device], where: dict[str, int]) -> Plan:
    """Split with some nodes on these devices, by number, and all others on the first."""
    force = {node.name: devices[where.get(node.name, 0)].id for node in onnx.load(model).graph.node}
    return small_models.split(model, devices, FakeCosts(), "heft", out_folder=folder, constraints={"force": force})


def in_nhwc(plan: Plan) -> set[str]:
    return {
        spec.name for segment in plan.segments for spec in (*segment.inputs, *segment.outputs) if spec.layout == "NHWC"
    }


def test_only_images_whose_segments_all_compute_in_nhwc_cross_in_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_last, "keeps_channels_last", lambda device: device in (CPU, CPU2))
    # c crosses too, but is an output of the model.
    plan = placed(model, tmp_path / "1", [CPU, CPU2, GPU], {"a": 1, "c": 1})
    assert in_nhwc(plan) == {"a", "d"}
    # b is read by what takes the mean, which is no image's operator.
    assert in_nhwc(placed(model, tmp_path / "2", [CPU, CPU2, GPU], {"a": 1, "b0": 1, "b": 1})) == {"a"}
    # One reader of a on a device that does not keep them so.
    assert in_nhwc(placed(model, tmp_path / "3", [CPU, CPU2, GPU], {"a": 1, "d": 2})) == set()
    # No engine that computes in NHWC.
    monkeypatch.setattr(channels_last, "keeps_channels_last", lambda device: False)
    assert in_nhwc(placed(model, tmp_path / "4", [CPU, CPU2, GPU], {"a": 1})) == set()


def test_segment_files_declare_the_layout_and_give_the_same_results(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_last, "keeps_channels_last", lambda device: True)
    plan = placed(model, tmp_path / "plan", [CPU, CPU2], {"a": 1, "d": 1})
    assert in_nhwc(plan) == {"a", "d"}
    moved = {(t.tensor, t.size_bytes) for t in plan.transfers if t.tensor in in_nhwc(plan)}
    assert moved == {("a", 4 * 4 * 8 * 6), ("d", 4 * 4 * 8 * 6)}
    for segment in plan.segments:
        file = onnx.load(Path(plan.folder) / segment.file)
        onnx.checker.check_model(file, full_check=True)
        declared = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in file.graph.input}
        assert declared == {spec.name: spec.shape for spec in segment.inputs}
        assert all(declared.get(name, (1, 8, 6, 4)) == (1, 8, 6, 4) for name in in_nhwc(plan))
    expected = small_models.run_whole(model, FEEDS)
    for name, array in small_models.run_plan(plan, FEEDS).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5)
    assert Plan.load(plan.folder) == replace(plan, folder=Plan.load(plan.folder).folder)
    written = (Path(plan.folder) / "plan.json").read_text()
    assert '"layout": "NHWC"' in written
    assert '"NCHW"' not in written


def test_an_image_read_in_a_branch_is_transposed_too() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 17]>
    g (bool c, float[1,4,8,6] a) => (float[1,4,8,6] y) {
        y = If (c) <then_branch = t () => (float[1,4,8,6] t) { t = Neg(a) },
                    else_branch = e () => (float[1,4,8,6] e) { e = Identity(a) }>
    }""")
    boundary_layouts.add_layout_transposes(model.graph, ["a"], [])
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 8, 6, 4]))
    onnx.checker.check_model(model, full_check=True)
    value = FEEDS["x"].transpose(0, 2, 3, 1)
    (got,) = ReferenceEvaluator(model).run(None, {"c": np.array(True), "a": value})
    np.testing.assert_array_equal(got, -FEEDS["x"])


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Device]]:
    """Lists a device a second time, as if the machine had two of it."""

    def listed_twice(name: str) -> list[Device]:
        (first,) = find_devices(name)
        inventory, second = engines._inventory(), replace(first, id=f"{first.id}#1")
        more = replace(inventory, devices=(*inventory.devices, second))
        monkeypatch.setattr(engines, "_inventory", lambda: more)
        return [first, second]

    return listed_twice


def test_openvino_reports_its_layout_and_runs_nhwc_boundaries(
    model: Path, tmp_path: Path, twice: Callable[[str], list[Device]]
) -> None:
    devices = twice("cpu:openvino")
    keeps = keeps_channels_last(devices[0])
    plan = placed(model, tmp_path / "plan", devices, {"a": 1, "d": 1})
    assert in_nhwc(plan) == ({"a", "d"} if keeps else set())
    verification = verify(plan, model, FEEDS)
    assert verification.ok
    assert {check.name for check in verification.checks} == {"a", "d", "c", "m", "y"}
    with Session(plan) as session:
        got = session.run(FEEDS)
    for name, array in small_models.run_whole(model, FEEDS).items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-4)


def test_a_wrong_image_is_located_in_its_segment(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: Callable[[str], list[Device]]
) -> None:
    monkeypatch.setattr(channels_last, "keeps_channels_last", lambda device: True)
    plan = placed(model, tmp_path / "plan", twice("cpu:ort"), {"a": 1, "d": 1})
    assert verify(plan, model, FEEDS).ok
    (maker,) = [s for s in plan.segments if any(spec.name == "a" for spec in s.outputs)]
    file = Path(plan.folder) / maker.file
    spoiled = onnx.load(file)
    for node in spoiled.graph.node:
        if node.op_type == "Transpose" and node.output[0] == "a":
            node.attribute[0].ints[:] = [0, 2, 3, 1]
            node.input[0] = "spoiled"
    spoiled.graph.node.insert(1, onnx.helper.make_node("Neg", ["a:NCHW"], ["spoiled"]))
    file.write_bytes(spoiled.SerializeToString())
    verification = verify(plan, model, FEEDS)
    assert not verification.ok
    assert verification.drift_segment == maker.index
    assert not next(check for check in verification.checks if check.name == "a").ok


def test_segments_with_nhwc_boundaries_are_recorded_without_layout_changes_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = prepare(PlanRequest(model, (CPU, CPU2)), DeviceData(FakeCosts()))
    reordered = {}
    for keeps in (False, True):
        monkeypatch.setattr(channels_last, "keeps_channels_last", lambda device, keeps=keeps: keeps)
        plan = placed(model, tmp_path / str(keeps), [CPU, CPU2], {"a": 1, "d": 1})
        count = len(plan.segments)
        result = measured_segments(inputs, plan, PlanTiming(1.0, 0.0, (1.0,) * count, (0.0,) * count, 1, None))
        terms = [term for segment in result[CPU2.id] for term in segment.terms]
        reordered[keeps] = sum(term.kind.startswith("layout") for term in terms)
    assert reordered[True] < reordered[False]


def test_layouts_of_unavailable_devices_are_unknown() -> None:
    (first,) = find_devices("cpu:openvino")
    assert not keeps_channels_last(replace(first, id=f"edge1/{first.id}"))
    assert not keeps_channels_last(replace(first, reality="published"))
    assert not keeps_channels_last(CPU)
