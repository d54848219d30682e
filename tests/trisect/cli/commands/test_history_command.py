"""The commands history show and history clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trisect.cli.conftest import Call
from trisect.cli import main
from trisect.context.history import History


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.setenv("TRISECT_HISTORY", str(tmp_path / "history.sqlite"))
    history = History()
    history.record_answer("question", "answer")
    history.record_run("model", ("cpu:ort",), "", 0.1)
    history.record_run("model", ("cpu:ort",), "", 0.2)
    return history


def test_counts_are_shown(history: History, as_json: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json("history", "show") == {"path": str(history.path), "answers": 1, "runs": 2}
    assert main(["history", "show"]) == 0
    assert str(history.path) in capsys.readouterr().err


def test_clearing_reports_what_was_erased(history: History, as_json: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json("history", "clear") == {"path": str(history.path), "erased": {"answers": 1, "runs": 2}}
    assert history.counts() == {"answers": 0, "runs": 0}
    assert main(["history", "clear"]) == 0
    assert capsys.readouterr().err == f"erased 0 answers and 0 runs from {history.path}\n"
