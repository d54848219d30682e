"""The strategy ``auto`` runs its candidates, and says what splitting gains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trisect
from trisect import api
from trisect.cli.application import main
from trisect.cli.plan_documents import plan_document
from trisect.partitioner.planning import contender_runs
from trisect.partitioner.planning.measured_planning import SplitInterrupted


def words(model: Path, devices: str, out: Path) -> list[str]:
    return ["split", str(model), "--devices", devices, "--shape", "batch=7", "-o", str(out)]


def test_auto_runs_its_candidates_once(
    model: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words(model, two_devices, tmp_path / "a"), "--budget", "2s", "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    rows = {row["what"]: row for row in comparison["rows"]}
    assert list(rows)[:-1] == [f"{device} alone" for device in two_devices.split(",")]
    plan = trisect.Plan.load(tmp_path / "a")
    assert plan.comparison is not None
    own = rows["this split" if plan.comparison.is_split else "this plan"]
    assert own["source"] == "measured"
    alone_s = min(row["seconds"] for row in list(rows.values())[:-1] if row["source"] == "measured")
    assert comparison["gain"] == pytest.approx(alone_s / own["seconds"] - 1)
    assert plan.comparison.summary == comparison["summary"]

    def unexpected(*_: object) -> None:
        raise AssertionError("plans run again")

    monkeypatch.setattr(contender_runs, "call_isolated", unexpected)
    assert main([*words(model, two_devices, tmp_path / "b"), "--budget", "1s"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == plan.comparison.summary
    assert (tmp_path / "a" / "plan.json").read_bytes() == (tmp_path / "b" / "plan.json").read_bytes()


def test_what_is_only_predicted_says_so(
    model: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, more in enumerate((["--no-measure"], ["--strategy", "zigzag"])):
        call = [*words(model, two_devices, tmp_path / str(number)), *more]
        assert main([*call, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["comparison"]["rows"]
        assert {row["source"] for row in rows} == {"predicted"}
        assert main(call) == 0
        assert f"{two_devices.split(',')[0]} alone: " in capsys.readouterr().err
        plan = replace(trisect.Plan.load(tmp_path / str(number)), objective="throughput")
        rates = [row["items_per_s"] for row in plan_document(plan)["comparison"]["rows"]]
        assert rates == pytest.approx([1 / row["seconds"] for row in rows])


def test_an_interrupted_split_shows_its_plan_and_exits_with_130(
    model: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan = api.make_plan

    def interrupted(*arguments: Any) -> None:
        raise SplitInterrupted(make_plan(*arguments))

    monkeypatch.setattr(api, "make_plan", interrupted)
    assert main([*words(model, two_devices, tmp_path / "plan"), "--no-measure"]) == 130
    out, err = capsys.readouterr()
    assert "segment" in out
    assert "this " in err
    assert err.splitlines()[-1] == "interrupted"
    assert trisect.Plan.load(tmp_path / "plan").segments


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            ["--strategy", "heft", "--budget", "3s"],
            "the strategy 'heft' runs no plans, so that it needs no time budget",
        ),
        (["--no-measure", "--budget", "3s"], "plans are not run, so that there is nothing to refine"),
        (["--objective", "memory", "--budget", "3s"], "running a plan does not measure its memory"),
        (["--budget", "0s"], "invalid --budget '0s': expected a duration"),
        (["--pareto", "latency,memory", "--no-measure"], "--no-measure cannot be combined with --pareto"),
        (["--pareto", "latency,memory", "--budget", "3s"], "--budget cannot be combined with --pareto"),
    ],
)
def test_options_that_contradict_each_other(
    model: Path, two_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], line: str
) -> None:
    assert main([*words(model, two_devices, tmp_path / "plan"), *more]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "plan").exists()
