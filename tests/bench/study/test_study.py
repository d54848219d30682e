"""Studies: right numbers, repeatable, and never stopped by what a strategy does."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import trisect
from trisect.bench.study.study_folder import SPEC, StudyFolder
from trisect.bench.study.study_result import Study
from trisect.bench.study.study_rows import COLUMNS, StudyRow
from trisect.bench.study.study_runs import run_spec
from trisect.bench.study.study_spec import make_spec, read_spec, to_toml
from trisect.bench.study.user_module import load
from trisect.bench.workloads import UnknownWorkload
from trisect.cli import main
from trisect.partitioner import strategies
from trisect.partitioner.strategies import UnknownStrategy
from trisect.runtime.errors import InvalidInput, StorageFailed

BAD = Path(__file__).parent / "bad_strategies.py"
PRINTED = """
import trisect
@trisect.strategy("mine")
def mine(problem):                       # sees graph, devices, costs, objective, constraints
    return {n: min(problem.devices, key=lambda d: problem.time(n, d)) for n in problem.graph}
workloads = ["onnx-light?only=zfnet", "random:layered?n=8"]
found = trisect.study(["mine", "heft", "exact"], workloads=workloads, seeds=range(2), time_limit_s=2)
print(found.to_markdown())
assert [row.status for row in found.rows] == ["ok"] * len(found.rows), found.rows
assert len(found.rows) == 2 + 2 + 3 * 2
"""
"""As in the documentation: without a guard, so that a process that imported the script would start the study again."""


@pytest.fixture
def bad() -> None:
    load(BAD)
    yield
    for name in [name for name in strategies._REGISTERED if name.startswith(("bad-", "good-"))]:
        del strategies._REGISTERED[name]


def numbers(study: Study) -> list[StudyRow]:
    """Rows without the one figure that is measured."""
    return [replace(row, plan_time_s=0.0) for row in study.rows]


def test_a_heuristic_works_as_printed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRINTED)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| mine |") == 4


WRONG = {
    "bad-raises": ("raised ZeroDivisionError", ""),
    "bad-exits": ("raised SystemExit: enough", ""),
    "bad-unknown-device": ("broke the rule 'unknown'", "unknown"),
    "bad-misses": ("broke the rule 'unplaced'", "unplaced"),
    "bad-list": ("expected a mapping of task to device from the strategy 'bad-list', found list", ""),
    "bad-forever": ("not finished within", ""),
    "bad-dies": ("its process ended (exit code 3)", ""),
    "bad-moody": ("not deterministic", ""),
    "bad-boaster": ("claims a bound", ""),
    "bad-vandal": ("Frozen graph", ""),
}


def test_a_strategy_that_does_wrong_is_a_row_and_the_study_goes_on(bad: None) -> None:
    names = ["heft", *WRONG, "good-but-held", "bad-forever-here", "single"]
    study = trisect.study(names, ["random:layered?n=6"], seeds=[3], stop_after_s=1.0, time_limit_s=0.5, processes=2)
    rows = {row.strategy: row for row in study.rows}
    assert list(rows) == names
    assert {name for name, row in rows.items() if row.status == "ok"} == {"heft", "single", "good-but-held"}
    for name, (reason, rule) in WRONG.items():
        assert (rows[name].status, rows[name].rule) == ("failed", rule)
        assert reason in rows[name].reason
        assert rows[name].value is None
    assert "not finished" in rows["bad-forever-here"].reason
    summary = {s.strategy: s for s in study.summary().strategies}
    assert summary["bad-raises"].failed == 1
    assert summary["bad-raises"].mean_ratio is None
    assert summary["heft"].failed == 0


def test_what_a_row_says_agrees_with_solving_it_oneself() -> None:
    from trisect.bench import workloads

    study = trisect.study(["heft", "etf"], ["random:fork-join?n=15&ccr=2"], seeds=[0, 5], processes=1)
    (choice,) = workloads.choices("random:fork-join?ccr=2&n=15")
    problems = {i.name: i.make() for i in workloads.instances(choice, [0, 5], None)}
    assert len(study.rows) == 4
    for row in study.rows:
        solution = trisect.solve(problems[row.instance], row.strategy)
        assert (row.value, row.bound) == (solution.value, solution.bound)
        assert row.gap == pytest.approx(solution.gap)
        assert row.workload == choice.text
        assert (row.tasks, row.devices, row.objective) == (15, 3, "latency")


def test_seeds_select_instances_and_seed_stochastic_strategies() -> None:
    study = trisect.study(
        ["heft", "random"], ["onnx-light?only=zfnet", "random:layered?n=5"], seeds=[1, 2], processes=1
    )
    got = [(row.instance, row.strategy, row.seed) for row in study.rows]
    assert got[:3] == [("zfnet512", "heft", 1), ("zfnet512", "random", 1), ("zfnet512", "random", 2)]
    assert got[3:] == [(f"seed {s}", name, s) for s in (1, 2) for name in ("heft", "random")]


def test_a_rerun_of_the_saved_specification_gives_the_same_numbers(tmp_path: Path) -> None:
    spec = make_spec(
        ["heft", "random", "multilevel"], ["random:series-parallel?n=10,20", "onnx-light?only=zfnet"], [0, 1]
    )
    first = run_spec(spec, out=tmp_path / "one", processes=2)
    again = run_spec(read_spec(tmp_path / "one" / SPEC), out=tmp_path / "two", processes=1)
    assert numbers(first) == numbers(again)
    assert sorted(numbers(Study.read(tmp_path / "one")), key=lambda row: row.key) == sorted(
        numbers(first), key=lambda row: row.key
    )
    assert first.environment["workloads"]["onnx-light?only=zfnet"]["licence"] == "Apache-2.0"


def test_an_interrupted_study_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    spec = make_spec(["heft", "single"], ["random:layered?n=5"], range(10))
    seen = []

    def interrupt(done: int, total: int, text: str) -> None:
        seen.append((done, total))
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, out=tmp_path / "s", processes=1, progress=interrupt)
    assert len(Study.read(tmp_path / "s").rows) == 7
    seen.clear()
    whole = run_spec(spec, out=tmp_path / "s", processes=1, progress=lambda d, t, text: seen.append((d, t)))
    assert seen[0] == (8, 20)
    assert numbers(whole) == numbers(run_spec(spec, processes=1))


def test_a_folder_of_another_study_is_left_alone(tmp_path: Path) -> None:
    run_spec(make_spec(["single"], ["random:layered?n=3"]), out=tmp_path / "s")
    with pytest.raises(InvalidInput, match="another study"):
        run_spec(make_spec(["heft"], ["random:layered?n=3"]), out=tmp_path / "s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(InvalidInput, match="not empty"):
        run_spec(make_spec(["heft"], ["random:layered?n=3"]), out=tmp_path / "mine")
    (tmp_path / "s" / "rows.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(StorageFailed, match="rows"):
        Study.read(tmp_path / "s")


def test_every_form_of_the_results_holds_the_same_rows(tmp_path: Path) -> None:
    study = trisect.study(["heft", "single:gpu:1"], ["random:erdos-renyi?n=6"], seeds=[0, 1], processes=1)
    study.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["strategy"] for line in lines] == [row.strategy for row in study.rows]
    assert [float(line["value"]) for line in lines] == [row.value for row in study.rows]
    study.to_sqlite(tmp_path / "rows.sqlite")
    with sqlite3.connect(tmp_path / "rows.sqlite") as table:
        assert table.execute("SELECT value, tasks FROM runs WHERE strategy = 'heft' AND seed = 1").fetchall() == [
            (study.rows[2].value, 6)
        ]
    with pytest.raises(StorageFailed, match="already"):
        study.to_sqlite(tmp_path / "rows.sqlite")
    parquet = pytest.importorskip("pyarrow.parquet")
    study.to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names == list(COLUMNS)
    assert [StudyRow(**row) for row in table.to_pylist()] == list(study.rows)
    assert r"single:gpu:1 & " in study.to_latex()
    pytest.importorskip("pandas")
    assert study.to_pandas().groupby("strategy")["value"].mean()["heft"] == pytest.approx(
        sum(row.value or 0 for row in study.rows if row.strategy == "heft") / 2
    )


def test_a_problem_that_cannot_be_made_counts_against_no_strategy(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"format": "trisect-problem", "tasks": [')
    (tmp_path / "sound.json").write_text(
        '{"format": "trisect-problem", "devices": [{"id": "cpu:0", "kind": "cpu"}], '
        '"tasks": [{"name": "a", "times_s": [1]}]}'
    )
    study = trisect.study(["heft"], [f"problems:{tmp_path}"], processes=1)
    assert [(row.instance, row.status) for row in study.rows] == [("cut", "no problem"), ("sound", "ok")]
    assert "not a valid problem file" in study.rows[0].reason
    summary = study.summary()
    assert (summary.blocks, summary.unusable, summary.strategies[0].failed) == (1, 1, 0)


@pytest.mark.parametrize(
    ("strategies", "workloads", "seeds", "error", "text"),
    [
        ([], ["stg"], [0], InvalidInput, "without a strategy"),
        (["heft"], [], [0], InvalidInput, "without a workload"),
        (["heft"], ["stg"], [], InvalidInput, "without a seed"),
        (["hefty"], ["random:layered"], [0], UnknownStrategy, "did you mean heft"),
        (["heft"], ["randon:layered"], [0], UnknownWorkload, "did you mean random"),
        (["heft"], ["random:layerd"], [0], InvalidInput, "did you mean random:layered"),
        (["heft"], ["random:layered?nn=3"], [0], InvalidInput, "no setting 'nn'"),
        (["heft"], ["random:layered?n=many"], [0], InvalidInput, "whole number"),
        (["heft"], ["random:layered?n=0"], [0], InvalidInput, "n is 1 to"),
        (["heft"], ["problems:/nowhere/*.json"], [0], InvalidInput, "no .json or .stg file"),
        (["heft"], ["random:layered"], [-1], InvalidInput, "seed -1"),
        (["heft"], ["onnx-light?only=nothing"], [0], InvalidInput, "no instance"),
        (["heft"], ["onnx-light?machine=cray"], [0], trisect.TrisectError, "no published machine"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_it_runs(
    strategies: list[str], workloads: list[str], seeds: list[int], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        trisect.study(strategies, workloads, seeds=seeds)


def test_the_command_line_runs_goes_on_and_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(PRINTED.partition("found =")[0].replace('"mine"', '"loaded"'))
    out = str(tmp_path / "out")
    words = ["bench", "study", "--strategies", "loaded,heft", "--workloads", "random:layered?n=5,7", "--seeds", "0-1,4"]
    try:
        assert main([*words, "--load", str(mine), "--out", out, "--json"]) == 0
        first = json.loads(capsys.readouterr().out)
        assert len(first["rows"]) == 2 * 3 * 2
        assert {row["status"] for row in first["rows"]} == {"ok"}
        assert {s["strategy"] for s in first["summary"]["strategies"]} == {"loaded", "heft"}
        assert "def mine" in first["environment"]["strategies"]["loaded"]["source"]
        assert main(["bench", "study", out, "--load", str(mine), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == first["rows"]
        assert main(["bench", "study", f"{out}/study.toml", "--load", str(mine), "--latex"]) == 0
        assert r"\toprule" in capsys.readouterr().out
        assert {"rows.csv", "summary.md", "summary.tex"} <= {path.name for path in Path(out).iterdir()}
    finally:
        strategies._REGISTERED.pop("loaded", None)
    assert main(["bench", "study", "--list", "--json"]) == 0
    assert all(w["provenance"] and w["licence"] for w in json.loads(capsys.readouterr().out)["workloads"])


@pytest.mark.parametrize(
    "text", ["", "study", "[study]\nworkloads = 3", "[study]\nstrategies=['heft']\nworkloads=['stg']\nx=1"]
)
def test_a_damaged_specification_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    assert main(["bench", "study", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_specification_runs_no_python_file_that_the_user_has_not_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, mark = tmp_path / "code.py", tmp_path / "ran"
    code.write_text(f"open({str(mark)!r}, 'w').close()")
    path = tmp_path / "s.toml"
    path.write_text(
        f'[study]\nstrategies = ["heft"]\nworkloads = ["random:layered?n=5"]\nload = [{json.dumps(str(code))}]\n'
    )
    other = tmp_path / "other.py"
    other.write_text("")
    for words in ([], ["--load", str(other)]):
        assert main(["bench", "study", str(path), *words]) == 2
        err = capsys.readouterr().err
        assert f"--load {code}" in err
        assert err.count("\n") == 1
        assert not mark.exists()
    assert main(["bench", "study", str(path), "--load", str(code), "--json"]) == 0
    assert mark.exists()


def test_the_users_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nonsense_that_is_not_there")
    with pytest.raises(InvalidInput, match="raised ModuleNotFoundError"):
        load(tmp_path / "broken.py")
    with pytest.raises(InvalidInput, match="not a Python file"):
        load(tmp_path / "absent.py")


def test_a_users_files_beside_a_specification_are_not_overwritten(tmp_path: Path) -> None:
    spec = make_spec(["heft"], ["random:layered?n=5"], [0])
    (tmp_path / "study.toml").write_bytes(to_toml(spec))
    (tmp_path / "summary.md").write_text("mine")
    with pytest.raises(InvalidInput, match=r"summary\.md is not of this study"):
        StudyFolder(tmp_path, spec, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.toml", "summary.md"]
