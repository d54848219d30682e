"""Stateful tensors stay on one device, and a plan of a model with state computes what the model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.partitioner import small_models
from tests.partitioner.small_models import CPU, GPU, FakeCosts
from trisect.partitioner.problem.constraints import Constraints, read_constraints
from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.runtime.plans.plan import Plan

STATE = {"past": "present"}
APART = {"force": {"decayed": "cpu", "hidden": "gpu", "present": "gpu"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Halves its state and adds a product of its input."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    recurrent (float[1,8] x, float[1,8] past) => (float[1,8] y, float[1,8] present)
    <float half = {0.5}> {
        [decayed] kept = Mul(past, half)
        [hidden] h = MatMul(x, w)
        [positive] g = Relu(h)
        [present] present = Add(kept, g)
        [scores] y = MatMul(present, w)
    }"""
    return small_models.write(tmp_path / "recurrent.onnx", text, {"w": weight()})


def weight() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32)


def split(model: Path, strategy: str, constraints: dict[str, object]) -> Plan:
    return small_models.split(
        model, [CPU, GPU], FakeCosts(), strategy, out_folder=model.parent / "plan", constraints=constraints
    )


def test_no_placement_separates_the_nodes_of_a_state(model: Path) -> None:
    refused = 0
    for seed in range(6):
        strategy = f"test-random:{seed}"
        free = split(model, strategy, {}).placement
        if free["decayed"] != free["present"]:
            with pytest.raises(InfeasibleProblem, match="decayed and tasks colocated with it are on different devices"):
                split(model, strategy, {"state": STATE})
            refused += 1
        else:
            assert split(model, strategy, {"state": STATE}).placement == free
    assert 0 < refused < 6


def test_a_split_with_state_computes_what_the_model_computes(model: Path) -> None:
    plan = split(model, "auto", {"force": {"hidden": "gpu", "decayed": "cpu"}, "state": STATE})
    assert [plan.placement[node] for node in ("hidden", "decayed", "present")] == [GPU.id, CPU.id, CPU.id]
    assert plan.constraints["state"] == STATE
    past = np.zeros((1, 8), np.float32)
    for step in range(3):
        x = np.full((1, 8), step - 1, np.float32)
        outputs = small_models.run_plan(plan, {"x": x, "past": past})
        expected = past * np.float32(0.5) + np.maximum(x @ weight(), 0)
        np.testing.assert_allclose(outputs["present"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(outputs["y"], expected @ weight(), rtol=1e-4, atol=1e-5)
        past = outputs["present"]


def test_a_state_forced_apart_is_infeasible(model: Path) -> None:
    assert len(split(model, "auto", APART).used_devices) == 2
    with pytest.raises(InfeasibleProblem, match="no device may run all of 'decayed', 'present'"):
        split(model, "auto", {**APART, "state": STATE})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"pats": "present"}, "the model has no input 'pats' to keep as state; did you mean 'past'"),
        ({"past": "presents"}, "the model has no output 'presents' to keep as state; did you mean 'present'"),
        ({"past": "present", "x": "present"}, "is the state of the inputs 'past' and 'x'; name one output"),
    ],
)
def test_a_state_that_the_model_does_not_have_is_refused(model: Path, state: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        split(model, "single", {"state": state})


def test_state_is_read_and_joined_like_other_constraints() -> None:
    one, other = Constraints(state={"a": "b"}), read_constraints({"state": {"c": "d"}})
    assert one.joined(other).plain() == {"state": {"a": "b", "c": "d"}}
    with pytest.raises(InvalidInput, match="in state"):
        read_constraints({"state": {"a": 1}})
