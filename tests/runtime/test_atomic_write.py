"""Files are written completely or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import StorageFailed


def test_folders_are_created_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"old", b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_rename_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageFailed, match="cannot be written: No space left"):
        write_atomically(path, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_atomically(tmp_path / "file" / "other", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on open files")
def test_what_a_killed_process_left_is_removed_by_the_next_write_of_the_same_file(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from trisect.runtime.atomic_write import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(1000)); file.flush(); print(flush=True); time.sleep(600)"
    )
    target = tmp_path / "a.bin"
    with subprocess.Popen([sys.executable, "-c", program, target], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_atomically(target, b"1")
        write_atomically(tmp_path / "b.bin", b"1")
        assert len(list(tmp_path.iterdir())) == 3  # what is being written stays
        process.kill()
    write_atomically(tmp_path / "b.bin", b"2")
    assert len(list(tmp_path.iterdir())) == 3
    write_atomically(target, b"2")
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", "b.bin"}
