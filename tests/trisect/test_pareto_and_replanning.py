"""Constraints, time limits, Pareto fronts and replanning, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trisect
from tests.trisect.conftest import store_synthetic_profile
from trisect import Constraints, Plan, api, network_fitting, pareto_plans
from trisect.cli import main
from trisect.partitioner.planning import plan_maker
from trisect.partitioner.planning.plan_maker import make_pareto_plans, make_plan
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, InvalidInput, PowerUnknown, UnknownDevice
from trisect.runtime.plans import plan_origins

SHAPES = {"batch": 3}


@pytest.fixture(autouse=True)
def _given_costs(two_devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan from the given costs alone: earlier tests may have stored others, and times of runs to fit models to."""
    store_synthetic_profile()
    monkeypatch.setattr(network_fitting, "fitted_models", lambda *_: {})


@pytest.fixture
def split_words(model: Path, two_devices: str, tmp_path: Path) -> list[str]:
    return ["split", str(model), "--devices", two_devices, "--shape", "batch=3", "-o", str(tmp_path / "p")]


def test_constraints_of_a_split(model: Path, two_devices: str) -> None:
    one, other = two_devices.split(",")
    constraints = {"force": {"matmul0": one, "re:relu[45]": other}, "max_segments": 2}
    plan = trisect.split(model, two_devices, shapes=SHAPES, constraints=constraints)
    assert (plan.placement["matmul0"], plan.placement["relu4"], len(plan.segments)) == (one, other, 2)
    assert plan.constraints == constraints
    same = trisect.split(model, two_devices, shapes=SHAPES, constraints=Constraints(**constraints))  # type: ignore[arg-type]
    assert same.placement == plan.placement
    with pytest.raises(FallbackForbidden, match="no device left without CPU fallback: only cpu"):
        trisect.split(model, two_devices, shapes=SHAPES, constraints=Constraints(cpu_fallback=False))
    with pytest.raises(InvalidInput, match="'matmul9' matches nothing in this model; did you mean 'matmul"):
        trisect.split(model, two_devices, shapes=SHAPES, constraints={"forbid": {"matmul9": one}})


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
def test_invalid_time_limits_are_refused(model: Path, two_devices: str, limit: float) -> None:
    with pytest.raises(InvalidInput, match=r"invalid time limit .* s: expected a positive number of seconds"):
        trisect.split(model, two_devices, shapes=SHAPES, time_limit_s=limit)


def test_seed_and_time_limit_reach_the_strategy(model: Path, two_devices: str) -> None:
    received: list[tuple[float, int]] = []

    @trisect.strategy("listening")
    def listening(problem: trisect.Problem, *, time_limit_s: float, seed: int) -> dict[str, str]:
        received.append((time_limit_s, seed))
        return dict.fromkeys(problem.graph, problem.device_ids[0])

    plan = trisect.split(model, two_devices, "listening", shapes=SHAPES, seed=5, time_limit_s=2.5)
    assert received == [(2.5, 5)]
    assert (plan.seed, plan.time_limit_s) == (5, 2.5)


def test_replanning_without_a_device(model: Path, two_devices: str, tmp_path: Path) -> None:
    one, other = two_devices.split(",")
    constraints = {"forbid": {"matmul0": other}, "colocate": [["matmul1", "matmul2"]]}
    plan = trisect.split(
        model, two_devices, f"single:{one}", "throughput", SHAPES, constraints=constraints, seed=3, out=tmp_path / "p"
    )
    again = trisect.replan(Plan.load(tmp_path / "p"), [other], out=tmp_path / "q")
    assert set(again.placement.values()) == {one}
    assert [device.id for device in again.devices] == [one]
    assert (again.strategy, again.objective, again.shapes, again.seed) == (
        f"single:{one}",
        "throughput",
        plan.shapes,
        3,
    )
    assert again.constraints == plan.constraints
    assert f"replanned without {other}" in again.notes
    assert plan_origins.find_model(again) == model
    assert trisect.verify(again).ok


def test_replanning_that_is_infeasible(model: Path, two_devices: str) -> None:
    one, other = two_devices.split(",")
    plan = trisect.split(model, two_devices, f"single:{one}", shapes=SHAPES)
    freed = trisect.replan(plan, [one])  # `auto` replaces a strategy that names the lost device
    assert (freed.strategy, set(freed.placement.values())) == ("auto", {other})
    with pytest.raises(UnknownDevice, match="no device 'gpu:none' in this plan"):
        trisect.replan(plan, ["gpu:none"])
    with pytest.raises(InfeasibleProblem, match="has no device left"):
        trisect.replan(plan, [one, other])
    bound = trisect.split(model, two_devices, shapes=SHAPES, constraints={"force": {"matmul0": one}})
    with pytest.raises(InfeasibleProblem, match=f"'matmul0' forces it to {one}"):
        trisect.replan(bound, [one])


def test_a_front_of_a_model(model: Path, two_devices: str, tmp_path: Path) -> None:
    front = trisect.pareto(
        model, ("latency", "memory"), two_devices, SHAPES, time_limit_s=1, seed=1, out=tmp_path / "front"
    )
    points = [(s.values["latency"], s.values["memory"]) for s in front]
    latencies_s = [latency_s for latency_s, _ in points]
    assert latencies_s == pytest.approx(sorted(latencies_s))
    assert len({memory for _, memory in points}) == len(points) >= 2  # less memory where weights are spread
    for number, solution in enumerate(front):
        plan = Plan.load(tmp_path / "front" / f"{number:02d}")
        assert plan.value == solution.value == solution.values["latency"]
        assert dict(solution.intervals) == ({} if plan.interval is None else {"latency": plan.interval})
        assert plan.predicted.peak_bytes is not None
        assert max(plan.predicted.peak_bytes.values()) == solution.values["memory"]
    assert trisect.verify(plan).ok
    with pytest.raises(PowerUnknown, match="is not measured, and not published"):
        trisect.pareto(model, ("latency", "energy"), two_devices, SHAPES)


def test_a_front_is_planned_like_a_split(
    model: Path, two_devices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[PlanRequest, DeviceData]] = []

    def recorded(request: PlanRequest, data: DeviceData, *more: Any) -> Any:
        requests.append((request, data))
        return make_plan(request, data, *more)

    def recorded_front(request: PlanRequest, data: DeviceData, *more: Any) -> Any:
        requests.append((request, data))
        return make_pareto_plans(request, data, *more)

    monkeypatch.setattr(api, "make_plan", recorded)
    monkeypatch.setattr(pareto_plans, "make_pareto_plans", recorded_front)
    options: dict[str, Any] = {"shapes": SHAPES, "constraints": {"max_segments": 2}, "time_limit_s": 1.0, "seed": 4}
    plan = trisect.split(model, two_devices, measure=False, **options)
    front = trisect.pareto(model, ("latency", "memory"), two_devices, out=tmp_path / "front", **options)
    (split_request, split_data), (front_request, front_data) = requests
    assert front_request == split_request
    assert (front_data.calibrations, front_data.power_w) == (split_data.calibrations, split_data.power_w)
    assert front_data.capabilities is not None
    assert min(solution.value for solution in front) <= plan.value * (1 + 1e-9)  # `auto` finds the best of few tasks
    (same,) = [s for s in front if s.placement == dict(front[0].placement)]
    assert Plan.load(tmp_path / "front" / "00").value == same.value


def test_a_front_keeps_nodes_off_a_device_that_refuses_their_segment(
    model: Path, two_devices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Any] = []

    def refuses_the_first(segments: Any, *_: Any) -> list[Any]:
        if refused:
            return []
        refused.append(segments[0])
        return [(segments[0], "too large")]

    monkeypatch.setattr(plan_maker, "refused_segments", refuses_the_first)
    front = trisect.pareto(
        model, ("latency", "memory"), two_devices, SHAPES, time_limit_s=1, out=tmp_path / "front"
    )  # fmt: skip
    plans = [Plan.load(tmp_path / "front" / f"{number:02d}") for number in range(len(front))]
    assert len(list((tmp_path / "front").iterdir())) == len(front)
    (segment,) = refused
    assert all(plan.placement[node] != segment.device for plan in plans for node in segment.nodes)
    assert all("does not compile on" in "".join(plan.notes) for plan in plans)


def test_energy_of_a_published_machine(model: Path, tmp_path: Path) -> None:
    plan = trisect.split(
        model, "gpu,npu", objective="energy", shapes=SHAPES, machine="intel-core-ultra-7-155h", out=tmp_path / "p"
    )
    assert plan.predicted.energy_j == plan.value > 0
    assert Plan.load(tmp_path / "p").machine == "intel-core-ultra-7-155h"
    again = trisect.replan(plan, [plan.devices[0].id])
    assert again.machine == plan.machine
    assert {device.reality for device in again.devices} == {"published"}


def test_split_with_all_options_on_the_command_line(
    split_words: list[str], two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = two_devices.split(",")
    (tmp_path / "demands.toml").write_text(f'max_segments = 9\n[force]\n"matmul0" = "{other}"\n')
    words = [
        *split_words, "--constraints", str(tmp_path / "demands.toml"), "--force", f"matmul0={one}", "--forbid",
        f"op:Relu={other}", "--colocate", "matmul3,matmul5", "--max-segments", "4", "--time-limit", "1", "--json",
    ]  # fmt: skip
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["placement"]["matmul0"] == one
    assert {document["placement"][f"relu{i}"] for i in range(6)} == {one}
    assert document["placement"]["matmul3"] == document["placement"]["matmul5"]
    assert document["constraints"] == {
        "force": {"matmul0": one},
        "forbid": {"op:Relu": other},
        "colocate": [["matmul3", "matmul5"]],
        "max_segments": 4,
    }
    assert document["bound_by"]
    assert document["time_limit_s"] == 1


def test_a_front_on_the_command_line(
    split_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*split_words, "--pareto", "latency,memory", "--time-limit", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["objectives"] == ["latency", "memory"]
    for point in document["points"]:
        assert Plan.load(point["plan"]).value == point["values"]["latency"]
    without_out = split_words[:-2]
    assert main([*without_out, "--pareto", "latency,memory", "--time-limit", "1"]) == 0
    out, err = capsys.readouterr()
    assert "Pareto-optimal points" in out
    assert err == "predicted\n"


def test_explain_shows_certificate_summary_and_options(
    split_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*split_words, "--json"]) == 0
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "p")]) == 0
    out, err = capsys.readouterr()
    assert "op classes" in out
    assert "matvec" in out
    assert "; lower bound " in err
    assert main(["explain", str(tmp_path / "p"), "matmul1", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    plan = Plan.load(tmp_path / "p")
    assert document["bound_by"] == plan.bound_by
    node = document["nodes"]["matmul1"]
    assert (node["op_type"], node["op_class"], node["reason"]) == ("MatMul", "matvec", plan.explain("matmul1"))
    assert [option["device"] for option in node["options"]] == [device.id for device in plan.devices]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--force", "matmul0"], "invalid --force 'matmul0': expected SELECTOR=DEVICE"),
        (["--forbid", "missing=cpu"], "'missing' matches nothing"),
        (["--max-segments", "0"], "expected `int` >= 1 in max_segments, found 0"),
        (["--no-cpu-fallback"], "no device left without CPU fallback"),
        (["--constraints", "nothing.toml"], "cannot read the constraints nothing.toml"),
        (["--time-limit", "0"], "invalid time limit 0.0 s: expected a positive number"),
        (["--objective", "energy"], "is not measured, and not published"),
        (["--pareto", "latency,memory", "--strategy", "auto"], "--strategy cannot be combined with --pareto"),
        (["--pareto", "latency,memory", "--objective", "latency"], "--objective cannot be combined with --pareto"),
        (["--pareto", "latency,memory", "--refine", "1"], "--refine cannot be combined with --pareto"),
        (["--pareto", "latency,memory", "--address", "127.0.0.1:1"], "127.0.0.1:1"),
        (["--pareto", "latency"], "expected two different objectives, found 'latency'"),
        (["--strategy", "exact:gurobi"], "expected a solver of exact, found 'gurobi'"),
        (["--strategy", "opclass:nothing.toml"], "cannot read the table nothing.toml"),
    ],
)
def test_refusals(
    words: list[str], message: str, split_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*split_words, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "p").exists()


def test_a_folder_is_required_except_for_a_front(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(model)]) == 2
    assert "name one with --out" in capsys.readouterr().err
