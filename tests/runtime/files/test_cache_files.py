"""Processes that update a file at the same time lose nothing, wait for each other only so long, and leave no lock."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trisect.runtime.errors import StorageFailed
from trisect.runtime.files.cache_files import updating, write_cache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")

ADD = """
import sys
from pathlib import Path
from trisect.runtime.files.cache_files import updating
path = Path(sys.argv[1])
for number in range(50):
    with updating(path):
        lines = path.read_text() if path.exists() else ""
        path.write_text(lines + f"{sys.argv[2]} {number}\\n")
"""


def test_no_update_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    both = [subprocess.Popen([sys.executable, "-c", ADD, str(path), name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.read_text().splitlines()) == sorted(f"{name} {n}" for name in "ab" for n in range(50))
    assert os.listdir(path.parent) == ["file"]


def test_a_process_that_does_not_end_is_reported(tmp_path: Path) -> None:
    refused = pytest.raises(StorageFailed, match="another process has been writing")
    with updating(tmp_path / "a"), refused, updating(tmp_path / "b", timeout_s=0.05):
        pytest.fail("both had the lock")
    with updating(tmp_path / "b", timeout_s=0.05):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = ADD.replace("lines =", "print(flush=True); import time; time.sleep(600); lines =")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), "a"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    with updating(tmp_path / "a", timeout_s=5.0):
        pass


def test_a_cache_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        write_cache(tmp_path / "file" / "cache", b"", "the table")
    (record,) = caplog.records
    assert "the table cannot be stored for the next time" in record.getMessage()
    with pytest.raises(StorageFailed, match="cannot be written"), updating(tmp_path / "file" / "cache"):
        time.sleep(0)
