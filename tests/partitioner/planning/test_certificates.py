"""What a plan records: objective, bound and its source, reasons, totals and metadata; the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, NPU, FakeCosts
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.runtime.errors import InfeasibleProblem, PowerUnknown
from trisect.runtime.plans.plan import Plan

GOLDEN = Path(__file__).with_name("golden_plans.json")
POWER_W = {"cpu:one": 20.0, "gpu:one": 150.0, "npu:one": 5.0}
COSTS = FakeCosts(flops_per_s=(("gpu:one", 1e11), ("npu:one", 3e10)), copy_s=2e-6, overhead_s=3e-6)
STRATEGIES = (
    "annealing auto balanced cpop dp-chain etf genetic greedy heft local-search mincut multilevel opclass peft random "
    "roundrobin single"
).split()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_models.mlp(tmp_path / "m.onnx", layers=4, width=64)


def planned(model: Path, out: Path, strategy: str = "auto", objective: str = "latency", **more: object) -> Plan:
    return small_models.split(
        model, [CPU, GPU, NPU], COSTS, strategy, objective, {"batch": 16}, 7, out,  # type: ignore[arg-type]
        power_w=POWER_W, time_limit_s=2.0, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_golden_plans(model: Path, tmp_path: Path, strategy: str) -> None:
    """Segments of golden plans: a change is a change of behaviour, and needs a reason in the commit.

    Delete the file and run this test to write it again.
    """
    plan = planned(model, tmp_path / "plan", strategy, "throughput")
    result = [[segment.device, *segment.nodes] for segment in plan.segments]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if strategy not in golden:
        GOLDEN.write_text(json.dumps({**golden, strategy: result}, indent=1, sort_keys=True) + "\n")
        pytest.fail(f"there was no golden plan of {strategy}: review the one that was just written, and commit it")
    assert not any("time limit" in note for note in plan.notes)
    assert result == golden[strategy]


@pytest.mark.parametrize("objective", ["latency", "throughput", "energy", "memory"])
def test_every_objective_has_a_value_a_bound_and_its_totals(model: Path, tmp_path: Path, objective: str) -> None:
    plan = planned(model, tmp_path / "plan", objective=objective)
    predicted = plan.predicted
    assert predicted.energy_j is not None
    assert predicted.peak_bytes is not None
    assert plan.value == pytest.approx(
        {
            "latency": predicted.latency_s,
            "throughput": 1 / predicted.throughput_hz,
            "energy": predicted.energy_j,
            "memory": max(predicted.peak_bytes.values()),
        }[objective]
    )
    assert 0 < plan.bound <= plan.value
    assert plan.bound_by
    assert Plan.load(tmp_path / "plan") == plan


def test_each_objective_is_best_served_by_its_own_plan(model: Path, tmp_path: Path) -> None:
    plans = {o: planned(model, tmp_path / o, objective=o) for o in ("latency", "energy", "memory")}
    totals = {
        o: (p.predicted.latency_s, p.predicted.energy_j or 0.0, max((p.predicted.peak_bytes or {}).values()))
        for o, p in plans.items()
    }
    for i, objective in enumerate(plans):
        assert totals[objective][i] == min(values[i] for values in totals.values())
    assert set(plans["energy"].placement.values()) == {
        "npu:one"
    }  # four times slower than the GPU, at a thirtieth of its power
    assert len(set(plans["memory"].placement.values())) == 3  # weights are spread


def test_unknown_energy_is_refused_with_the_device(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PowerUnknown, match=r"the power of gpu:one is not measured, and not published; .*\(cpu:one\)"):
        small_models.split(
            model, [CPU, GPU], COSTS, "auto", "energy", {"batch": 1}, 0, tmp_path / "p", power_w={"cpu:one": 9.0}
        )
    plan = small_models.split(model, [CPU, GPU], COSTS, shapes={"batch": 1}, out_folder=tmp_path / "p")
    assert plan.predicted.energy_j is None


def test_exact_proves_its_plan(model: Path, tmp_path: Path) -> None:
    for objective in ("throughput", "energy"):
        plan = planned(model, tmp_path / "plan", "exact:milp", objective, constraints={"max_segments": 3})
        assert plan.gap == pytest.approx(0, abs=1e-5), objective
        assert len(plan.segments) <= 3


def test_reasons_name_figures_alternatives_and_what_forbids(model: Path, tmp_path: Path) -> None:
    class NoRelu(FakeCosts):
        def node_time_s(self, features: OpFeatures, device_id: str) -> float:
            if (features.op_type, device_id) == ("Relu", "gpu:one"):
                return float("inf")
            return 2e-3 if device_id == "cpu:one" else 1e-3

    plan = small_models.split(
        model, [CPU, GPU], NoRelu(copy_s=5e-4), "test-blocks:1", shapes={"batch": 1}, out_folder=tmp_path / "plan",
        constraints={"forbid": {"MatMul_0": "gpu"}},
    )  # fmt: skip
    assert plan.explain("Add_1").startswith("cpu:one 2 ms > gpu:one 1 ms + 1 ms copy + 0.01 ms call") or (
        "cpu:one 2 ms <" in plan.explain("Add_1")
    )
    assert plan.explain("Relu_2") == "cpu:one 2 ms: the only device that can or may run it (gpu:one: cannot run it)"
    assert "forbidden by 'MatMul_0'" in plan.explain("MatMul_0")
    task = plan.task_of("Add_1")
    assert task is not None
    assert (task.op_type, task.op_class, [option.device for option in task.options]) == (
        "Add",
        "elementwise",
        ["cpu:one", "gpu:one"],
    )
    assert plan.constraints == {"forbid": {"MatMul_0": "gpu"}}


def test_constraints_hold_in_the_written_plan(model: Path, tmp_path: Path) -> None:
    plan = planned(
        model, tmp_path / "plan", "heft", constraints={
            "max_segments": 2, "colocate": [["MatMul_0", "Relu_11"]], "force": {"op:Add": "gpu"}, "cpu_fallback": False,
        },
    )  # fmt: skip
    assert len(plan.segments) <= 2
    assert plan.placement["MatMul_0"] == plan.placement["Relu_11"]
    assert all(plan.placement[n] == "gpu:one" for n in plan.placement if n.startswith("Add"))
    assert "cpu:one" not in plan.placement.values()


def test_infeasible_memory_is_one_line(model: Path, tmp_path: Path) -> None:
    small = [replace(device, memory_bytes=1000) for device in (CPU, GPU)]
    with pytest.raises(InfeasibleProblem, match="the weights of 'MatMul_0' take 16384 bytes") as caught:
        small_models.split(model, small, COSTS, shapes={"batch": 1}, out_folder=tmp_path / "plan")
    assert "\n" not in str(caught.value)
    tight = [replace(device, memory_bytes=40_000) for device in (CPU, GPU)]
    plan = small_models.split(model, tight, COSTS, shapes={"batch": 1}, out_folder=tmp_path / "plan")
    assert max((plan.predicted.peak_bytes or {}).values()) <= 40_000


def test_segments_say_their_stage_where_the_format_has_a_field_for_it(tmp_path: Path) -> None:
    for ir_version, expected in ((10, []), (11, [0, 0, 1, 1])):
        text = f"""
        <ir_version: {ir_version}, opset_import: ["" : 21]> m (float[2, 4] x) => (float[2, 4] y) {{
            a = Relu(x) b = Neg(a) c = Abs(b) y = Tanh(c) }}"""
        path = small_models.write(tmp_path / "m.onnx", text)
        plan = small_models.split(path, [CPU, GPU], FakeCosts(), "test-blocks:2", out_folder=tmp_path / "plan")
        stages = []
        for segment in plan.segments:
            proto = onnx.load(Path(plan.folder) / segment.file)
            onnx.checker.check_model(proto)
            assert [c.device[0] for c in proto.configuration] == ([segment.device] if expected else [])
            stages += [c.pipeline_stage for node in proto.graph.node for c in node.device_configurations]
        assert stages == expected
        assert small_models.run_plan(plan, {"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 4)
