"""A pipeline that is slow enough to be interrupted during a run, and the means to do so."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.runtime.pipeline import make_pipeline
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.executors.hosts.worker_host import WorkerHost
from trisect.runtime.sessions.session import Session

ONE = LoadOptions(threads=1)


@pytest.fixture
def pipeline(make_plan):
    return make_pipeline(make_plan)


def hosts(session: Session) -> dict[str, WorkerHost]:
    return dict(session._executor.hosts.hosts)


def pid_of(session: Session, device: str) -> int:
    pid = hosts(session)[device].pid
    assert pid is not None
    return pid


def is_running(pid: int) -> bool:
    """Whether a process runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared_memory() -> set[str]:
    """Named shared memory that may be of a session: other programs have theirs."""
    folder = Path("/dev/shm")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if name.startswith(("psm_", "trisect"))}


def ours_open() -> set[tuple[str, str]]:
    """Open sockets and shared-memory chunks of this process: descriptor and what it is of."""
    opened = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if (target := os.readlink(entry)).startswith(("/memfd:trisect", "socket:")):
                opened.add((entry.name, target))
    return opened


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "trisect.runtime.workers" in " ".join(process.cmdline())
    return False


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No file descriptor, no named shared memory and no child process outlives a test's sessions.

    What other tests left may end meanwhile.
    """
    before, open_before, children_before = shared_memory(), ours_open(), psutil.Process().children()
    yield
    gc.collect()  # errors and the frames they hold are cycles, and hold tensors
    assert shared_memory() <= before
    children = [child for child in psutil.Process().children() if child not in children_before]
    assert not any(is_running(child.pid) for child in children if is_worker(child))
    assert ours_open() <= open_before
