"""Scratch folders end with their process, however it ends; nothing else is ever removed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trisect.runtime.scratch_folder import ScratchFolder, remove_abandoned, remove_all

PROGRAM = """
import sys, time
from pathlib import Path
from trisect.runtime.scratch_folder import ScratchFolder
folder = ScratchFolder("test", Path(sys.argv[1]))
(folder.path / "large").write_bytes(bytes(1000))
print(folder.path, flush=True)
if sys.argv[2] == "wait": time.sleep(600)
if sys.argv[2] == "error": raise ValueError
"""


def test_it_is_private_and_removed_at_the_end(tmp_path):
    with ScratchFolder("test", tmp_path) as first, ScratchFolder("test", tmp_path) as second:
        assert first != second
        assert first.parent == tmp_path
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
        (first / "a").mkdir()
        remove_abandoned(tmp_path)
        assert {first, second} <= set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    folder = ScratchFolder("test", tmp_path)
    del folder
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["end", "error"])
def test_it_ends_with_its_process(tmp_path, way):
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path, way], capture_output=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_that_of_a_killed_process_is_removed_by_the_next(tmp_path):
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path, "wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().decode().strip())
        remove_abandoned(tmp_path)
        assert (left / "large").is_file()
        process.kill()
    assert left.is_dir()
    with ScratchFolder("test", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_is_not_a_scratch_folder_stays(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / ".trisect-scratch").touch()
    mine = tmp_path / "trisect-mine-01234567"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    (tmp_path / "trisect-plan").mkdir()
    (tmp_path / "trisect-file-01234567").touch()
    os.symlink(tmp_path / "target", tmp_path / "trisect-link-01234567")
    before = set(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert set(tmp_path.rglob("*")) == before


def test_all_are_removed_before_an_exit_that_cleans_nothing(tmp_path):
    folders = [ScratchFolder("test", tmp_path) for _ in range(2)]
    remove_all()
    assert not list(tmp_path.iterdir())
    for folder in folders:
        folder.close()
