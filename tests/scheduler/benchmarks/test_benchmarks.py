"""Reading published benchmarks: what the files say, what is refused, and optima that are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.placement_data import benchmark
from trisect.partitioner.strategies.common.placement_value import simple_bound
from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.solving import solve

SMALL = {
    "maxSizePerFPGA": 10.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {"id": 7, "supportedOnFpga": 1, "cpuLatency": 5.0, "fpgaLatency": 1.0, "isBackwardNode": 0, "size": 4},
        {"id": 8, "supportedOnFpga": 0, "cpuLatency": 0.5, "fpgaLatency": 1.0, "isBackwardNode": 0, "size": 4},
        {"id": 9, "supportedOnFpga": True, "cpuLatency": 5.0, "fpgaLatency": 2.0, "isBackwardNode": 1, "size": 4},
    ],
    "edges": [{"sourceId": 7, "destId": 8, "cost": 0.25}, {"sourceId": 8, "destId": 9, "cost": 0.5}],
}


def written(folder: Path, content: object, name: str = "graph.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_graph_says_what_the_file_says(tmp_path: Path) -> None:
    problem = Problem.read(written(tmp_path, SMALL))
    assert problem.objective == "throughput"
    assert [d.id for d in problem.devices] == ["cpu:0", "npu:0", "npu:1"]
    assert problem.times_s == {"7": (5.0, 1.0, 1.0), "8": (0.5, float("inf"), float("inf")), "9": (5.0, 2.0, 2.0)}
    size = problem.graph.edges["8", "9"]["tensors"]["output of 8"]
    assert problem.transfer_time(size, "cpu:0", "npu:0") == 0.5
    assert problem.transfer_time(size, "npu:1", "npu:0") == 1.0
    assert problem.rules.backward == {"9"}
    assert problem.devices[1].memory_bytes == 10
    # a fetches nothing and sends 0.25; c fetches 0.5: side by side on two accelerators, or 3.75 on one.
    assert solve(problem, "exact", time_limit_s=1).value == 2.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": [{"sourceId": 7, "destId": 99, "cost": 1}]}, "names node 99"),
        ({"edges": [*SMALL["edges"], {"sourceId": 9, "destId": 7, "cost": 1}]}, "cycle"),  # type: ignore[misc]
        ({"nodes": [SMALL["nodes"][0]] * 2}, "two nodes with the id 7"),  # type: ignore[index]
        ({"maxFPGAs": -1}, "maxFPGAs"),
        ({"maxFPGAs": 10**9}, "maxFPGAs"),
        ({"nodes": 3}, "nodes"),
    ],
)
def test_damaged_graphs_are_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidModel, match=says):
        Problem.read(written(tmp_path, {**SMALL, **change}))


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="not a device-placement graph"):
        Problem.read(written(tmp_path, "{"))
    with pytest.raises(InvalidModel, match="cannot be read"):
        Problem.read(tmp_path / "missing.json")
    with pytest.raises(InvalidModel, match="not a supported benchmark file"):
        Problem.read(written(tmp_path, "", "graph.txt"))
    with pytest.raises(InvalidInput, match="objective"):
        Problem.read(written(tmp_path, SMALL), objective="beauty")  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match="declares 3 tasks"):
        Problem.read(written(tmp_path, "3\n0 1 0\n", "cut.stg"))
    with pytest.raises(InvalidModel, match="is malformed"):
        Problem.read(written(tmp_path, "1\n0 1 2 0\n", "row.stg"))
    with pytest.raises(InvalidModel, match="not a standard task graph"):
        Problem.read(written(tmp_path, "words", "words.stg"))
    with pytest.raises(InvalidInput, match="expected 1 to 1024 processors, found 0"):
        Problem.read(written(tmp_path, "1\n0 1 0\n", "fine.stg"), processors=0)


CONTIGUOUS = [
    ("layer/bert24", 17.790),
    ("layer/gnmt", 32.911),
    ("layer/resnet50", 33.775),
    ("layer/inceptionv3", 51.552),
    ("operator/bert_l-3", 27.919),
    ("operator/bert_l-6", 29.580),
    ("operator/resnet50", 124.349),
    ("operator/bert_l-12", 147.478),
]


@pytest.mark.parametrize(("name", "optimum"), CONTIGUOUS)
def test_published_optima_of_pipelines_are_found_and_proven(name: str, optimum: float) -> None:
    path = benchmark(f"dnn-partitioning/throughput/{name}_inference.json")
    solution = solve(Problem.read(path, objective="throughput", contiguous=True), "exact", time_limit_s=60)
    assert solution.violations == ()
    assert solution.value == pytest.approx(optimum, abs=6e-4)
    assert solution.gap == 0


@pytest.mark.slow
def test_published_optima_of_others_are_found() -> None:
    path = benchmark("dnn-partitioning/throughput/operator/bert_l-3_inference.json")
    assert solve(Problem.read(path), "exact", time_limit_s=20).value == pytest.approx(21.908, abs=6e-4)
    path = benchmark("dnn-partitioning/latency/layer/bert24_inference.json")
    solution = solve(Problem.read(path, objective="latency"), "exact", time_limit_s=20)
    assert solution.value == pytest.approx(100.218, abs=1e-3)
    assert solution.gap < 1e-4


@pytest.mark.parametrize(
    ("name", "least", "best_known"),
    [
        ("latency/layer/bert24", 100.2, 100.219),
        ("latency/layer/gnmt", 219.5, 225.65),
        ("latency/operator/bert_l-3", 408.0, 408.475),
        ("latency/operator/bert_l-6", 437.3, 438.07),
        ("throughput/layer/bert24", 17.69, 17.715),
        ("throughput/layer/gnmt", 30.99, 31.688),
        ("throughput/layer/inceptionv3", 50.97, 51.312),
    ],
)
def test_bounds_without_a_search_come_near_the_best_known(name: str, least: float, best_known: float) -> None:
    path = benchmark(f"dnn-partitioning/{name}_inference.json")
    objective: Objective = "latency" if name.startswith("latency") else "throughput"
    assert least <= simple_bound(Problem.read(path, objective=objective)) <= best_known


def test_standard_task_graphs_are_never_beaten_and_nearly_reached() -> None:
    folder = benchmark("stg")
    with (folder / "optimal.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::16]
    gaps = []
    for row in rows:
        published = [float(word) for word in row["optimum_or_bounds"].replace(",", " ").split()]
        problem = Problem.read(folder / row["file"], processors=int(row["processors"]))
        for strategy in ("heft", "local-search"):
            solution = solve(problem, strategy, time_limit_s=0.2)
            assert solution.violations == ()
            assert solution.value >= published[0]
            assert solution.bound <= published[-1]
        gaps.append(solution.value / published[0] - 1)
    assert sum(gaps) / len(gaps) < 0.02
