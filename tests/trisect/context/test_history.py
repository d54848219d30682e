"""The history records answers and runs, survives damage, and can be erased."""

import os
import sqlite3
from pathlib import Path

import pytest

from trisect.context.history import History
from trisect.runtime.errors import StorageFailed


def test_the_fastest_run_is_recorded_per_shape(tmp_path: Path):
    history = History(tmp_path / "history.sqlite")
    for devices, latency_s in ((("cpu:a",), 0.2), (("cpu:a", "gpu:b"), 0.1), (("gpu:b",), 0.3)):
        history.record_run("model", devices, "n=1", latency_s)
    history.record_run("model", ("cpu:a",), "n=2", 0.01)
    run = history.fastest_run("model", "n=1")
    assert run is not None
    assert (run.devices, run.latency_s) == (("cpu:a", "gpu:b"), 0.1)
    assert history.fastest_run("model", "n=3") is None
    assert history.fastest_run("other", "n=1") is None


def test_a_new_answer_replaces_the_old_one(tmp_path: Path):
    history = History(tmp_path / "history.sqlite")
    history.record_answer("q", "one")
    history.record_answer("q", "two")
    assert History(tmp_path / "history.sqlite").answer_to("q") == "two"


def test_clearing_leaves_nothing_in_the_file(tmp_path: Path):
    history = History(tmp_path / "history.sqlite")
    history.record_answer("q", "a secret that must not be found again")
    assert history.clear() == {"answers": 1, "runs": 0}
    assert b"secret" not in history.path.read_bytes()
    assert history.counts() == {"answers": 0, "runs": 0}


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_file_is_moved_aside_and_a_new_one_made(tmp_path: Path, content: bytes):
    path = tmp_path / "history.sqlite"
    path.write_bytes(content)
    history = History(path)
    history.record_answer("q", "a")
    assert history.answer_to("q") == "a"
    assert history.moved is not None
    assert history.moved.read_bytes() == content


def test_a_foreign_database_is_not_written_to(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table answers (other text)")
    connection.close()
    before = path.read_bytes()
    history = History(path)
    history.record_answer("q", "a")
    assert history.moved is not None
    assert history.moved.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match=r"the history .* cannot be opened"):
        History(tmp_path / "file" / "history.sqlite").counts()


def test_a_file_damaged_within_and_one_that_is_no_file_are_one_line(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table answers (x)")
        connection.execute("create table runs (x)")
        connection.execute("pragma user_version = 1")
    connection.close()
    with pytest.raises(StorageFailed, match="cannot be used: no such column"):
        History(path).answer_to("q")
    with pytest.raises(StorageFailed, match="cannot be opened: it is a folder"):
        History(tmp_path).answer_to("q")


def test_a_latency_that_is_no_number_is_no_run(tmp_path: Path):
    history = History(tmp_path / "history.sqlite")
    history.record_run("model", ("cpu:a",), "", "fast")  # type: ignore[arg-type]
    history.record_run("model", ("cpu:a",), "", -1.0)
    assert history.fastest_run("model", "") is None


def test_a_file_that_was_moved_aside_is_never_overwritten(tmp_path: Path):
    path = tmp_path / "thesis.txt"
    for content in ("first" * 1000, "second" * 1000):
        path.write_text(content)
        history = History(path)
        history.record_answer("q", "a")
        assert history.moved is not None
        assert history.moved.read_text() == content
        path.unlink()
    assert sorted(os.listdir(tmp_path)) == ["thesis.txt.damaged", "thesis.txt.damaged1"]
