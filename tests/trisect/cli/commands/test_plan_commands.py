"""The commands split, run, verify and explain."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.trisect.cli.conftest import Call
from tests.trisect.conftest import expected
from trisect import Plan
from trisect.cli import main

Capture = pytest.CaptureFixture[str]


def test_split_as_json(model: Path, two_devices: str, tmp_path: Path, as_json: Call) -> None:
    words = (
        "split",
        model,
        "--devices",
        two_devices,
        "--strategy",
        "zigzag",
        "--shape",
        "batch=3",
        "-o",
        tmp_path / "p",
    )
    document = as_json(*words)
    plan = Plan.load(tmp_path / "p")
    assert document["placement"] == dict(plan.placement)
    assert [s["device"] for s in document["segments"]] == [s.device for s in plan.segments]
    assert document["predicted"]["latency_s"] == plan.predicted.latency_s
    assert document["predicted"]["source"] == "predicted"
    assert (document["value"], document["bound"], document["gap"]) == (plan.value, plan.bound, plan.gap)
    assert set(document) >= {"devices", "strategy", "objective", "seed", "shapes", "transfers"}


def test_split_as_a_table(model: Path, measured: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(model), "--devices", "cpu:ort", "--shape", "batch=3", "-o", str(tmp_path / "p")]) == 0
    out, err = capsys.readouterr()
    assert "cpu:ort" in out
    assert "predicted latency" in err


def test_run_as_json(plan_folder: Path, tmp_path: Path, as_json: Call) -> None:
    x = np.random.default_rng(2).standard_normal((3, 16)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", x=x)
    document = as_json("run", plan_folder, "--feeds", tmp_path / "feeds.npz", "-o", tmp_path / "out.npz", "--repeat", 2)
    assert document["outputs"] == {"r5": {"dtype": "float32", "shape": [3, 16]}}
    assert document["trace"]["source"] == "measured"
    assert document["predicted"]["source"] == "predicted"
    measured = document["measured"]
    assert measured["runs"] == 2
    assert measured["outside_interval"] is not None
    assert set(measured["outside_interval"]) <= {*document["predicted"]["segment_intervals_s"], "total"}
    times_s: dict[str, list[float]] = {name: [] for name in ("segment 0", "segment 1", "segment 2")}
    for event in document["trace"]["events"]:
        if event["kind"] == "compute":
            times_s[event["name"]].append(event["end_s"] - event["start_s"])
    assert measured["segments_s"] == pytest.approx({name: sum(pair) / 2 for name, pair in times_s.items()})
    assert measured["latency_quartiles_s"][0] <= measured["latency_s"] <= measured["latency_quartiles_s"][1]
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["r5"], expected(x), rtol=1e-4, atol=1e-5)


def test_run_as_a_table(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(plan_folder), "--repeat", "2"]) == 0
    out, err = capsys.readouterr()
    assert "segment 2" in out
    assert "output r5: float32 [3, 16]" in err


def test_intervals_are_in_every_output(plan_folder: Path, tmp_path: Path, as_json: Call, capsys: Capture) -> None:
    plan = Plan.load(plan_folder)
    segments_s = {f"segment {segment.index}": (0.0, 1e3) for segment in plan.segments}
    predicted = replace(plan.predicted, latency_interval_s=(0.0, 1e-9), segment_intervals_s=segments_s)
    replace(plan, predicted=predicted, interval=(0.0, 1e-9)).save(tmp_path / "p")
    assert as_json("explain", tmp_path / "p")["interval"] == [0.0, 1e-9]
    document = as_json("run", tmp_path / "p", "--repeat", 2)
    assert document["predicted"]["latency_interval_s"] == [0.0, 1e-9]
    assert document["measured"]["outside_interval"] == ["total"]
    for words in (["run", "--repeat", "2"], ["explain"]):
        assert main([words[0], str(tmp_path / "p"), *words[1:]]) == 0
        out, err = capsys.readouterr()
        assert "90 % interval" in out
        assert "us, 90 %: 0-0.001 us; lower bound" in err or "outside" in out


def test_verify(plan_folder: Path, as_json: Call, capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json("verify", plan_folder)
    assert document["ok"] is True
    assert document["max_abs"] < 1e-3
    assert {check["segment"] for check in document["checks"]} == {0, 1, 2}
    assert main(["verify", str(plan_folder)]) == 0
    assert "are equal" in capsys.readouterr().err


def test_verify_in_processes_runs_the_split_there(
    plan_folder: Path, as_json: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trisect.runtime.executors.hosts.worker_host import WorkerHost

    opened: list[str] = []
    opening = WorkerHost.open

    def seen(host: Any) -> None:
        opening(host)
        opened.append(host._device.id)

    monkeypatch.setattr(WorkerHost, "open", seen)
    here, there = as_json("verify", plan_folder), as_json("verify", plan_folder, "--executor", "processes")
    assert there["ok"] is True
    assert there["checks"] == here["checks"]
    assert sorted(opened) == ["cpu:openvino", "cpu:ort"]


@pytest.mark.parametrize(("words", "message"), [
    (["--executor", "thread"], "there is no executor 'thread'; use one of processes, ray, threads"),
    (["--address", "127.0.0.1:1"], "127.0.0.1:1"),
])  # fmt: skip
def test_verify_with_an_executor_that_does_not_exist(
    plan_folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--address" in words:
        pytest.importorskip("ray")
    assert main(["verify", str(plan_folder), *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_verify_of_a_wrong_plan_exits_1(
    plan_folder: Path, as_json: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trisect.runtime import verification

    run_whole = verification.run_whole

    def wrong(*arguments: Any) -> tuple[Any, dict[str, np.ndarray]]:
        device, whole = run_whole(*arguments)
        return device, {name: array + 1 for name, array in whole.items()}

    monkeypatch.setattr(verification, "run_whole", wrong)
    document = as_json("verify", plan_folder, code=1)
    assert document["ok"] is False
    assert document["drift_segment"] == 0
    assert main(["verify", str(plan_folder)]) == 1
    assert "are different" in capsys.readouterr().err


def test_explain(plan_folder: Path, as_json: Call, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan.load(plan_folder)
    document = as_json("explain", plan_folder)
    assert set(document) == {"objective", "value", "interval", "bound", "bound_by", "gap", "nodes"}
    assert {name: node["device"] for name, node in document["nodes"].items()} == dict(plan.placement)
    assert list(as_json("explain", plan_folder, "matmul0")["nodes"]) == ["matmul0"]
    assert main(["explain", str(plan_folder), "matmul0"]) == 0
    assert plan.explain("matmul0") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split", "nothing.onnx", "-o", "p"], "nothing.onnx"),
        (["split", "MODEL", "-o", "p"], "batch"),
        (["split", "MODEL", "-o", "p", "--shape", "batch"], "invalid --shape 'batch': expected NAME=INT"),
        (["split", "MODEL", "-o", "p", "--shape", "batch=-1"], "invalid --shape 'batch=-1': expected NAME=INT"),
        (["split", "MODEL", "-o", "p", "--shape", "batch=1", "--strategy", "opclas"], "opclass"),
        (["split", "MODEL", "-o", "p", "--shape", "batch=1", "--objective", "beauty"], "beauty"),
        (["split", "MODEL", "-o", "p", "--devices", "gpu:nothing"], "cpu:ort"),
        (["run", "nothing"], "nothing"),
        (["run", "PLAN", "--feeds", "nothing.npz"], "nothing.npz"),
        (["run", "PLAN", "--feeds", "text.npz"], "is not an .npz file"),
        (["verify", "PLAN", "--model", "text.npz"], "is not the model"),
        (["explain", "PLAN", "matmul9"], "matmul"),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    model: Path,
    plan_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npz").write_text("no archive")
    named = {"MODEL": str(model), "PLAN": str(plan_folder)}
    assert main([named.get(word, word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("p").exists()


def test_pickled_feeds_are_not_read(plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    assert main(["run", str(plan_folder), "--feeds", str(tmp_path / "evil.npz")]) == 2
    assert "is a pickled object, which is not read" in capsys.readouterr().err


def test_outputs_are_written_completely_or_not_at_all(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(plan_folder), "-o", str(tmp_path / "missing" / "out.npz"), "--repeat", "1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", [[], ["--pareto", "latency,memory"]])
def test_a_split_refuses_a_folder_with_anything_of_the_user_before_any_work(
    model: Path, plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    folder = tmp_path / "out"
    target = folder / "00" if extra else folder
    shutil.copytree(plan_folder, target)
    shutil.copy(model, target / "mine.onnx")
    (folder / "note").mkdir()
    before = sorted(folder.rglob("*"))
    words = ["split", str(target / "mine.onnx"), "--devices", "nonsense", "-o", str(folder), *extra]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'mine.onnx', which is not part of a plan" in error or "'note', which is not a file" in error
    assert sorted(folder.rglob("*")) == before


def test_outputs_do_not_replace_what_is_read(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 16), np.float32))
    before = (tmp_path / "a.npz").read_bytes()
    for out in (tmp_path / "a.npz", plan_folder / "weights.bin", plan_folder / "new.npz", tmp_path):
        assert main(["run", str(plan_folder), "--feeds", str(tmp_path / "a.npz"), "-o", str(out)]) == 2
        assert str(out) in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == before
    Plan.load(plan_folder)


def test_the_files_of_a_model_are_no_outputs(
    measured: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load(model), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    split = ["split", "--devices", "cpu:ort", "--strategy", "single:cpu:ort", "--shape", "batch=3", "-o", "plan"]
    assert main([*split, "m.onnx"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    bench = ["bench", "m.onnx", "--devices", "cpu:ort"]
    for words in (
        ["run", "plan", "-o", "m.data"],
        ["run", "plan", "-o", "m.onnx"],
        [*bench, "--report", "m.data"],
        [*bench, "--trace", "m.data"],
        [*bench, "--trace", "new", "--report", "./new"],
        [*split, "plan/segment_000.onnx"],
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert re.search("overwritten|which this command reads|both name", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_pipe_is_no_model(plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    for words in (["verify", str(plan_folder), "--model", pipe], ["can-run", pipe], ["import", pipe, "-o", "never"]):
        assert main(words) == 2
        assert "it is a pipe, expected a file" in capsys.readouterr().err
