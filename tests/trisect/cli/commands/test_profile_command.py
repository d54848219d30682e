"""The command profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trisect.cli.conftest import Call
from trisect.cli import main


def test_profile_as_json_and_as_a_table(
    as_json: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRISECT_PROFILES", str(tmp_path))
    document = as_json("profile", "--devices", "cpu:ort", "--budget", "1")
    assert document["provenance"]["source"] == "measured"
    assert list(document["devices"]) == ["cpu:ort"]
    assert main(["profile", "--devices", "cpu:ort", "--budget", "1"]) == 0
    out, err = capsys.readouterr()
    assert "cpu:ort" in out
    assert str(tmp_path) in err
