"""A model that ran whole on a device costs there what was measured, and measurements are cached."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.partitioner import small_models
from trisect.partitioner.costs import calibration
from trisect.partitioner.costs.model_costs import measurement_key
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.segments.convex_cut import cut
from trisect.partitioner.strategies.search_based.auto import auto
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.drift.drift_factor import AGE_MAX
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import EngineFailed
from trisect.scheduler.simulation.simulate import evaluate

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
    monkeypatch.setattr(
        calibration, "_measure_kernels", lambda _, device, *__: calibration._ModelTimes(took[device.id])
    )
    inputs = small_models.inputs_of(graph, DEVICES, costs())
    plain = inputs.problem
    predicted = {d: sum(plain.time(task, d) for task in plain.graph) for d in IDS}
    wanted = {d: took[d] / predicted[d] for d in IDS}
    monkeypatch.setattr(calibration, "_SCALE_MAX", 2 * max(*wanted.values(), *(1 / s for s in wanted.values())))
    result = calibration.calibrate(inputs, tmp_path / "known.json")
    problem = calibration.calibrated(inputs, tmp_path / "known.json").problem
    for device in IDS:
        assert sum(problem.time(task, device) for task in problem.graph) == pytest.approx(took[device])
    monkeypatch.setattr(calibration, "_measure_kernels", lambda *_: pytest.fail("measured twice"))
    assert calibration.calibrate(inputs, tmp_path / "known.json") == result


def test_what_a_session_adds_is_the_median_of_the_devices_and_unknown_in_earlier_caches(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    overheads_s: dict[str, float | None] = {"cpu:ort": 3e-5, "cpu:openvino": 5e-5}
    monkeypatch.setattr(
        calibration, "_measure_kernels", lambda _, device, *__: calibration._ModelTimes(1.0, [], overheads_s[device.id])
    )
    inputs = small_models.inputs_of(graph, DEVICES, costs())
    for name, expected in (("both", 4e-5), ("cpu:openvino", 3e-5), ("cpu:ort", 0.0)):
        overheads_s.pop(name, None)
        overheads_s.setdefault(name, None)
        result = calibration.calibrated(inputs, tmp_path / f"{name[-3:]}.json")
        assert result.session_overhead_s == pytest.approx(expected)


def test_nodes_take_their_share_of_their_kernel_and_stay_together(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = list(graph.nodes)
    kernels = [([0, 1], 2e-3, 1e-3), *(([i], 1e-3, 0.0) for i in range(2, len(names)))]
    monkeypatch.setattr(calibration, "_measure_kernels", lambda *_: calibration._ModelTimes(1.0, kernels))
    inputs = small_models.inputs_of(graph, DEVICES, costs())
    result = calibration.calibrate(inputs, tmp_path / "known.json")
    assert result.scales == {}
    assert result.together == ((names[0], names[1]),) * 2
    inputs = calibration.calibrated(inputs, tmp_path / "known.json")
    tasks = inputs.tasks
    assert tasks.nodes[names[0]]["nodes"] == (names[0], names[1])
    problem = inputs.problem
    assert problem.time(names[0], "cpu:ort") == pytest.approx(3e-3)
    assert sum(problem.time(task, "cpu:ort") for task in tasks) == pytest.approx(3e-3 + 1e-3 * (len(names) - 2))
    assert all(result.nodes_s["cpu:ort"][name] > 0 for name in names)


def test_a_real_model_is_really_run(graph: Graph, tmp_path: Path):
    inputs = small_models.inputs_of(graph, DEVICES, costs())
    result = calibration.calibrate(inputs, tmp_path / "known.json")
    assert set(result.nodes_s) == set(IDS)
    for known_s in result.nodes_s.values():
        assert set(known_s) == set(graph.nodes)
        assert 1e-7 < sum(known_s.values()) < 1.0
    (tmp_path / "known.json").write_bytes(b"{damaged")
    again = calibration.calibrate(inputs, tmp_path / "known.json")
    assert set(again.nodes_s) == set(IDS)


def test_a_model_too_large_or_too_slow_is_only_timed_as_a_whole(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calibration, "_measure_kernels", lambda *_: pytest.fail("profiled"))
    slow = calibration.calibrate(
        small_models.inputs_of(graph, DEVICES, costs(times_s=(0.01, 0.01))), tmp_path / "slow.json"
    )
    assert set(slow.scales) == set(IDS)
    assert slow.nodes_s == {}
    monkeypatch.setattr(calibration, "_PROFILED_BYTES_MAX", 0)
    large = calibration.calibrate(small_models.inputs_of(graph, DEVICES, costs()), tmp_path / "large.json")
    assert set(large.scales) == set(IDS)


def test_a_device_that_cannot_run_it_is_left_as_it_is(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "_measure_kernels", lambda *_: calibration._ModelTimes(1e-3))
    refused = {(task, "cpu:openvino"): "not supported" for task in task_graph(graph)}
    inputs = small_models.inputs_of(graph, DEVICES, costs(), refused=refused)
    result = calibration.calibrate(inputs, tmp_path / "known.json")
    assert set(result.scales) == {"cpu:ort"}


def test_engines_on_one_processor_take_turns_and_a_split_must_gain_clearly(graph: Graph):
    here = small_models.inputs_of(graph, DEVICES, costs(times_s=(1e-6, 0.95e-6))).problem
    assert len(set(here.platform.core_sharing.groups.values())) == 1
    assert len(set(auto(here).placement.values())) == 1
    tasks = list(here.graph)
    parts = cut(here.graph, {task: IDS[2 * number // len(tasks)] for number, task in enumerate(tasks)})
    # In a stream both compute at once, on different inputs.
    assert evaluate(here.with_objective("throughput"), parts)[0] < evaluate(here, parts)[0]
    assert small_models.inputs_of(graph, DEVICES, costs("published")).problem.platform.core_sharing.groups == {}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            EngineFailed("whole model: out of memory", reason="out of memory"),
            "it cannot run the whole model: out of memory",
        ),
        (ChildProcessFailed("it", "its process ended (SIGSEGV)"), "it cannot run the whole model: its process ended"),
    ],
)
def test_a_failure_to_run_the_whole_model_is_a_note_also_when_it_is_cached(
    graph: Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: EngineFailed,
    reason: str,
):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(calibration, "measure_whole_plan", fail)
    inputs = small_models.inputs_of(graph, DEVICES, costs())
    results = [calibration.calibrated(inputs, tmp_path / "known.json") for _ in range(2)]
    for result in results:
        assert result.problem.times_s == inputs.problem.times_s
        assert result.notes[0].startswith(f"costs of cpu:ort are not calibrated on this model: {reason}")
    assert caplog.text.count(f"costs of cpu:ort are not calibrated: {reason}") == 1


def test_a_model_that_would_run_for_ages_is_not_run(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "measure_whole_plan", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(calibration, "measure_whole_file", lambda *_: pytest.fail("it was run"))
    inputs = small_models.inputs_of(graph, DEVICES, costs(times_s=(1e6, 1e6)))
    notes = calibration.calibrated(inputs, tmp_path / "known.json").notes
    assert len(notes) == 2
    assert "one run is predicted to take" in notes[0]


NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def total_s(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Predicts the time of the whole model on cpu:ort, where running it takes a second of a device with this probe."""

    def predicted(probe_s: float | None, runs_s: float = 1.0, later: timedelta = timedelta(0)):
        kernels = [([i], runs_s / len(graph.nodes), 0.0) for i in range(len(graph.nodes))]
        monkeypatch.setattr(calibration, "_measure_kernels", lambda *_: calibration._ModelTimes(runs_s, kernels))
        probes_s = {} if probe_s is None else {"cpu:ort": probe_s, "cpu:openvino": 1.0}
        inputs = small_models.inputs_of(graph, DEVICES, costs())
        inputs = calibration.calibrated(inputs, tmp_path / "known.json", probes_s=probes_s, now=NOW + later)
        return pytest.approx(sum(inputs.problem.time(task, "cpu:ort") for task in inputs.tasks)), inputs.notes

    return predicted


def test_times_are_scaled_where_a_device_has_become_slower_and_that_is_said(total_s):
    assert total_s(1.0) == (1.0, ())
    assert total_s(1.08, 5.0) == (1.0, ())
    note = "runs 1.4 times slower than when this model was measured on it (2026-05-01): its costs are scaled by that"
    assert total_s(1.4, 5.0) == (1.4, (f"cpu:ort {note}",))
    assert total_s(0.8, 5.0)[0] == 0.8
    assert total_s(None, 5.0) == (1.0, ())  # nothing is known of its speed now
    assert total_s(1.0, 5.0) == (1.0, ())


def test_a_model_is_measured_again_where_much_has_changed_or_long_after(total_s):
    assert total_s(1.0)[0] == 1.0
    assert total_s(1.6, 1.7) == (1.7, ())
    assert total_s(1.6, 5.0) == (1.7, ())
    assert total_s(1.0, 1.1) == (1.1, ())
    assert total_s(1.0, 2.0, AGE_MAX) == (1.1, ())
    assert total_s(1.0, 2.0, AGE_MAX + timedelta(seconds=1)) == (2.0, ())


def test_measurements_of_unknown_age_are_made_again(graph: Graph, tmp_path: Path, total_s):
    keys = {measurement_key(graph, [device]) for device in DEVICES}
    rows = ",".join(f'"{key}": {{"whole_s": 9.0, "kernels": [[[0], 9.0]]}}' for key in keys)
    (tmp_path / "known.json").write_text("{" + rows + "}")
    assert total_s(1.0, 2.0) == (2.0, ())
