"""Stored results are summaries that a person can read, with date and versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RESULTS = sorted((Path(__file__).resolve().parents[2] / "bench" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_short_and_names_its_versions(path: Path) -> None:
    text = path.read_text()
    document = json.loads(text)
    assert document["versions"]
    assert document.get("date") or path.stem.rpartition("_")[2]
    assert len(text.splitlines()) <= 150
