"""The command can-run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trisect.cli.conftest import Call
from trisect.cli import main


@pytest.fixture(autouse=True)
def own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISECT_HISTORY", str(tmp_path / "history.sqlite"))


def test_one_model(model: Path, as_json: Call, capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json("can-run", model, "--devices", "cpu:ort", "--shape", "batch=2")
    assert (document["name"], document["ability"], document["from_history"]) == (model.name, "yes", False)
    assert document["devices"]["cpu:ort"]["ability"] == "yes"
    assert main(["can-run", str(model), "--devices", "cpu:ort", "--shape", "batch=2"]) == 0
    out, err = capsys.readouterr()
    assert "confidence high" in out
    assert "answered from the history" in err


def test_the_best_of_several_models(model: Path, as_json: Call) -> None:
    document = as_json("can-run", "owner/model-500b", model, "--devices", "cpu:ort")
    assert document["best"] == str(model)
    assert [candidate["name"] for candidate in document["candidates"]] == ["owner/model-500b", model.name]


def test_a_model_that_cannot_run_exits_1(as_json: Call) -> None:
    document = as_json("can-run", "owner/model", "--file", "model.safetensors", "--devices", "cpu:ort", code=1)
    assert document["ability"] == "no"
    assert (
        "none of the files is an ONNX graph or a GGUF file, or weights beside a tokenizer.json"
        in document["devices"]["cpu:ort"]["reasons"]
    )


def test_files_of_several_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["can-run", "a/b", "c/d", "--file", "model.onnx"]) == 2
    assert capsys.readouterr().err == "error: --file and --tag describe one model; check the models one by one\n"
