"""A private Ray, and a cluster of several nodes on this machine; a process can use one of them at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.runtime.pipeline import make_pipeline
from trisect.runtime.cluster.ray_connection import RayConnection, connect
from trisect.runtime.plans.plan import Plan

SERVER = Path(__file__).with_name("cluster_server.py")
TOKEN = "0123456789abcdef" * 4
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that dies is noticed after a second, not after fifteen; one that answers slowly is not taken for dead.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "2",
}

pytest.importorskip("ray")


@pytest.fixture
def pipeline(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    return partial(make_pipeline, make_plan)


@pytest.fixture(scope="module")
def private_ray() -> Iterator[RayConnection]:
    """Shared by a whole module, as it takes seconds to start."""
    with connect() as connection:
        yield connection


class RunningCluster:
    """A cluster in another process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | SETTINGS,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "done"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A head node and two others, joined by this process."""
    running = RunningCluster()
    try:
        running.tell("add edge1")
        running.tell('add edge2 {"trisect_cpu": 1}')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", TOKEN)
            with connect(running.address):
                yield running
    finally:
        running.close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Plan], Plan]:
    """Gives a plan's folder a path that only this process can open, as on a disk that nodes do not share."""

    def hidden(plan: Plan) -> Plan:
        monkeypatch.chdir(tmp_path)
        return replace(plan, folder=plan.folder.replace(str(tmp_path), "/proc/self/cwd"))

    return hidden
