"""Variants of placement graphs: equal optima where promised, and valid training graphs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.placement_data import benchmark
from trisect.bench.acceptance.problem_variants import SCALE, VARIANTS, Content, perturbed, renamed, scaled, training
from trisect.scheduler.problem.problem import Problem
from trisect.solving import solve

CONTENT: Content = {
    "maxSizePerFPGA": 30.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {"id": i, "supportedOnFpga": 1, "cpuLatency": 20.0 + i, "fpgaLatency": 2.0 + i % 3, "size": 4} for i in range(6)
    ],
    "edges": [{"sourceId": a, "destId": b, "cost": 0.5} for a, b in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5))],
}


def problem_of(content: Content, folder: Path, *, contiguous: bool = False) -> Problem:
    path = folder / "graph.json"
    path.write_text(json.dumps(content))
    return Problem.read(path, contiguous=contiguous)


@pytest.mark.parametrize("contiguous", [False, True])
def test_renamed_and_scaled_graphs_have_the_same_optimum(tmp_path: Path, contiguous: bool) -> None:
    first = solve(problem_of(CONTENT, tmp_path, contiguous=contiguous), "exact", time_limit_s=5)
    other = solve(problem_of(renamed(CONTENT, 3), tmp_path, contiguous=contiguous), "exact", time_limit_s=5)
    larger = solve(problem_of(scaled(CONTENT), tmp_path, contiguous=contiguous), "exact", time_limit_s=5)
    assert first.gap < 1e-6
    assert other.value == pytest.approx(first.value)
    assert larger.value == pytest.approx(SCALE * first.value)


def test_a_training_graph_mirrors_its_forward_pass(tmp_path: Path) -> None:
    problem = problem_of(training(CONTENT), tmp_path, contiguous=True)
    assert len(problem.graph) == 12
    assert problem.rules.backward == {str(i) for i in range(6, 12)}
    assert len(problem.rules.colocated) == 6
    # The gradient of 3 waits for those of 4 and 5, the loss is behind both ends.
    assert sorted(problem.graph.predecessors("9")) == ["10", "11"]
    assert set(problem.graph.predecessors("10")) == {"4"}
    solution = solve(problem, "exact", time_limit_s=5)
    assert solution.violations == ()
    assert solution.gap == 0
    assert all(solution.placement[str(i)] == solution.placement[str(i + 6)] for i in range(6))
    assert len(problem_of(training(CONTENT, orphans=1.0), tmp_path).rules.colocated) == 0


def test_what_is_given_is_not_changed() -> None:
    before = json.dumps(CONTENT)
    for change in VARIANTS.values():
        assert json.dumps(change(CONTENT)) != before
    assert json.dumps(CONTENT) == before
    assert perturbed(CONTENT, 1) == perturbed(CONTENT, 1) != perturbed(CONTENT, 2)


def test_training_graphs_of_published_models_are_solved_to_the_optimum(tmp_path: Path) -> None:
    path = benchmark("dnn-partitioning/throughput/layer/bert24_inference.json")
    problem = problem_of(training(json.loads(path.read_text())), tmp_path, contiguous=True)
    solution = solve(problem, "exact", time_limit_s=20)
    assert solution.violations == ()
    assert solution.gap == 0
