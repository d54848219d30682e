"""Results never replace an input of the same command, and nothing but regular files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import InvalidInput, StorageFailed
from trisect.runtime.files.output_paths import check_output_file


def test_new_files_and_files_given_by_name_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    for name in ("new", "old"):
        check_output_file(tmp_path / name, [tmp_path / "input", None])
    assert os.listdir(tmp_path) == ["old"]


def test_inputs_are_not_overwritten_by_any_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("mine")
    os.link(tmp_path / "input", tmp_path / "hard")
    (tmp_path / "link").symlink_to(tmp_path / "input")
    (tmp_path / "plan").mkdir()
    for name in ("input", "hard", "plan/../input"):
        with pytest.raises(InvalidInput, match="is an input"):
            check_output_file(tmp_path / name, [tmp_path / "link"])
    for name in ("plan/new", "plan/plan.json"):
        with pytest.raises(InvalidInput, match="which this command reads"):
            check_output_file(tmp_path / name, [tmp_path / "plan"])


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(os.listdir(tmp_path))
    for path, kind in (
        (tmp_path / "folder", "a folder"),
        (tmp_path / "link", "a link"),
        (tmp_path / "null", "a link"),
        (tmp_path / "fifo", "a pipe"),
        (Path("/dev/null"), "a device"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / ("a" * 5000), "too long"),
        (tmp_path / "other" / "below", "Not a directory"),
        (tmp_path / "missing" / "file", "there is no folder"),
    ):
        with pytest.raises(StorageFailed, match=f"cannot be written: .*{kind}"):
            check_output_file(path)
        if "missing" not in path.parts:
            with pytest.raises(StorageFailed, match=f"cannot be written: .*{kind}"):
                write_atomically(path, b"new")
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other").read_text() == "mine"


def test_new_files_have_the_mode_of_the_umask_and_old_ones_keep_theirs(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o600)
    write_atomically(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
