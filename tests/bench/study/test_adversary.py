"""The search for hard problems: repeatable, and what it says of a problem is so."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest

import trisect
from trisect.bench.study.adversary import AdversarySearch, find_adversary
from trisect.cli import main
from trisect.partitioner import strategies
from trisect.runtime.errors import InvalidInput, InvalidModel, UnsupportedOperator
from trisect.scheduler.benchmarks.problem_file import read_problem_file, to_tables, write_problem_file


def test_it_finds_worse_than_chance_and_the_same_again() -> None:
    adversary = find_adversary(AdversarySearch("heft", "cpop", iterations=120, restarts=2, seed=4))
    assert adversary == find_adversary(AdversarySearch("heft", "cpop", iterations=120, restarts=2, seed=4))
    assert adversary.ratio > 1.2 * adversary.start_ratio
    assert (
        find_adversary(AdversarySearch("heft", "cpop", iterations=120, restarts=2, seed=5)).tables != adversary.tables
    )


def test_the_problem_it_saves_is_as_hard_for_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worst.json"
    words = ["bench", "adversary", "etf", "heft", "--iterations", "60", "--out", str(path), "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row.strategy: row for row in trisect.study(["etf", "heft"], [f"problems:{path}"], processes=1).rows}
    assert rows["etf"].value / rows["heft"].value == document["ratio"]  # type: ignore[operator]
    by_hand = trisect.solve(trisect.Problem.read(path), "etf")
    assert by_hand.value == document["value"]
    assert "seed 0" in document["tables"]["origin"]


def test_a_strategy_that_fails_is_the_worst_there_is() -> None:
    @trisect.strategy("fails-on-chains")
    def fails_on_chains(problem: trisect.Problem) -> dict[str, str]:
        if any(problem.graph.in_degree(n) > 1 for n in problem.graph):
            raise ValueError("no")
        return dict.fromkeys(problem.graph, problem.device_ids[0])

    try:
        adversary = find_adversary(AdversarySearch("fails-on-chains", "heft", iterations=50, restarts=1))
        assert (adversary.ratio, adversary.value) == (inf, None)
        assert "ValueError" in adversary.reason
    finally:
        del strategies._REGISTERED["fails-on-chains"]


def test_segments_are_searched_by_the_runtimes_rules() -> None:
    adversary = find_adversary(AdversarySearch("heft", "single", iterations=30, restarts=1, rules="segments"))
    assert to_tables(adversary.tables, "x").rules.convention == "segments"


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"tasks": 1}, {"devices": 99}, {"restarts": 9, "iterations": 3}, {"rules": "x"}]
)
def test_a_search_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        find_adversary(AdversarySearch("heft", "cpop", **settings))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="itself"):
        find_adversary(AdversarySearch("heft", "heft"))


def test_a_problem_file_survives_being_written() -> None:
    tables = find_adversary(AdversarySearch("heft", "cpop", iterations=20, restarts=1)).tables
    assert read_problem_file(write_problem_file(tables).decode(), "x") == tables
    assert write_problem_file(tables) == write_problem_file(tables)


SOUND = {
    "format": "trisect-problem",
    "devices": [{"id": "cpu:0", "kind": "cpu"}, {"id": "npu:0", "kind": "npu"}],
    "tasks": [{"name": "a", "times_s": [1, None]}, {"name": "b", "times_s": [3, 1]}],
    "edges": [{"source": "a", "target": "b", "size_bytes": 100}],
    "links": [{"source": "cpu:0", "target": "npu:0", "latency_s": 0.25, "bandwidth_bytes_per_s": 400}],
}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(SOUND | changes))
    return path


def test_a_problem_file_means_what_it_says(tmp_path: Path) -> None:
    problem = trisect.Problem.read(write(tmp_path))
    assert problem.time("a", "npu:0") == inf
    assert problem.transfer_time(100, "cpu:0", "npu:0") == 0.5
    assert problem.transfer_time(100, "npu:0", "cpu:0") == 0.0
    assert trisect.solve(problem, "exact").value == 2.5
    called = [SOUND["devices"][0], {"id": "npu:0", "kind": "npu", "overhead_s": 0.5}]  # type: ignore[index]
    cut = trisect.Problem.read(write(tmp_path, convention="segments", devices=called))
    assert (cut.rules.convention, trisect.solve(cut, "exact").value) == ("segments", 3.0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tasks": [{"name": "a", "times_s": [1]}]}, InvalidModel),
        ({"tasks": [{"name": "a", "times_s": [1, -1]}]}, InvalidModel),
        ({"tasks": [*SOUND["tasks"], {"name": "a", "times_s": [1, 1]}]}, InvalidModel),  # type: ignore[misc]
        ({"edges": [{"source": "a", "target": "z"}]}, InvalidModel),
        ({"edges": [{"source": "a", "target": "b", "size_bytes": 2**70}]}, InvalidModel),
        ({"edges": [{"source": "a", "target": "b"}, {"source": "b", "target": "a"}]}, trisect.TrisectError),
        ({"links": [{"source": "cpu:0", "target": "x"}]}, InvalidModel),
        ({"devices": []}, trisect.TrisectError),
        ({"devices": [{"id": "cpu:0", "kind": "cpu", "overhead_s": 1}, {"id": "npu:0", "kind": "npu"}]}, InvalidModel),
        ({"schema": 2}, InvalidModel),
        ({"code": "import os"}, InvalidModel),
        ({"edges": [], "tasks": [{"name": "a", "times_s": [None, None]}]}, UnsupportedOperator),
    ],
)
def test_a_damaged_problem_file_is_refused(changes: dict[str, object], error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        trisect.Problem.read(write(tmp_path, **changes))
    with pytest.raises(InvalidInput, match="objective is latency"):
        trisect.Problem.read(write(tmp_path), "throughput")
    with pytest.raises(InvalidInput, match="contiguous"):
        trisect.Problem.read(write(tmp_path), contiguous=True)
