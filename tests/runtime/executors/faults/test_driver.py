"""When the driver ends, normally or killed, no worker and no shared memory remains."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runtime.executors.faults.conftest import is_running, shared_memory

SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
import numpy as np
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.engines.base import LoadOptions
with Session(Plan.load(sys.argv[1]), "processes", LoadOptions(threads=1)) as session:
    print(*[host.pid for host in session._executor.hosts.hosts.values()], flush=True)
    feeds = {"x": np.ones((64, 192), np.float32)}
    for number, _ in enumerate(session.stream((feeds for _ in range(10**9)), window=4)):
        if number == 5:
            print("streaming", flush=True)
"""


@pytest.fixture
def saved(pipeline, tmp_path):
    folder = Path(pipeline.folder)
    hashed = [
        replace(segment, sha256=hashlib.sha256((folder / segment.file).read_bytes()).hexdigest())
        for segment in pipeline.segments
    ]
    return replace(pipeline, segments=tuple(hashed)).save(tmp_path / "saved").folder


@pytest.fixture
def started() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], list[int]]]]:
    """Starts drivers, and kills those that a failing test leaves."""
    drivers: list[subprocess.Popen[str]] = []

    def start(folder: str) -> tuple[subprocess.Popen[str], list[int]]:
        driver = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        drivers.append(driver)
        return driver, workers_of(driver)

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


def workers_of(driver: subprocess.Popen[str]) -> list[int]:
    """Process ids of a driver's workers, once it streams."""
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2, driver.stderr.read() if driver.stderr else ""
    assert all(is_running(pid) for pid in pids)
    assert driver.stdout.readline() == "streaming\n"
    return pids


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < until, "a worker outlives its driver"
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_and_no_memory_outlives_a_driver(saved, started, number):
    before = shared_memory()
    driver, pids = started(saved)
    driver.send_signal(number)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode != 0
    wait_until_gone(pids)
    assert shared_memory() <= before
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in err
        assert "segment" not in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_worker_in_the_middle_of_a_run_ends_too(saved, started):
    """The worker is stopped and cannot react: the kernel ends it."""
    driver, pids = started(saved)
    if sys.platform != "linux":
        pytest.skip("only Linux's kernel ends a process with its parent")
    os.kill(pids[0], signal.SIGSTOP)
    driver.kill()
    driver.wait(60)
    wait_until_gone(pids)


def test_a_session_keeps_standard_output_clean(saved, tmp_path):
    """Workers write to standard error only: the output of a command must remain one document."""
    code = SCRIPT.replace(
        "for number, _ in", "session.run(feeds); import json; print(json.dumps([1])); sys.exit(0)\n    for number, _ in"
    )
    done = subprocess.run([sys.executable, "-c", code, saved], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[1]) == [1]
    assert done.stderr == ""
