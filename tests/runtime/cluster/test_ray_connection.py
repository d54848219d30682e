"""A private Ray is isolated and leaves nothing behind; an address without a cluster is recognised quickly."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trisect.runtime.cluster.cluster_nodes import living_nodes
from trisect.runtime.cluster.ray_connection import connect
from trisect.runtime.errors import ClusterFailed, EngineMissing, InvalidInput

DRIVER = """
import os, psutil, sys, time
from trisect.runtime.cluster.ray_connection import connect
with connect() as connection:
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    time.sleep(120)
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides the folders of other processes; the path is short, as it becomes part of sockets' paths."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp" if os.name == "posix" else None) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("trisect-ray-*"))


def ended(pids: list[int], limit_s: float = 30.0) -> bool:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
            return True
        time.sleep(0.1)
    return False


def test_a_private_ray_listens_here_only_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    environment = dict(os.environ)
    before = psutil.Process().children(recursive=True)  # of other tests: what they keep running is theirs
    with connect() as connection, connect() as again:
        assert connection.is_private
        assert again.address == connection.address
        assert connection.address.startswith("127.")
        children = [child for child in psutil.Process().children(recursive=True) if child not in before]
        assert children
        heard = []
        for process in [psutil.Process(), *children]:
            with contextlib.suppress(psutil.Error):
                heard += [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert heard
        assert all(ip.removeprefix("::ffff:").startswith("127.") for ip in heard)
        assert [node.is_here for node in living_nodes(connection)] == [True]
        assert len(folders()) == 1
        assert "RAY_AUTH_TOKEN" not in set(os.environ) - set(environment)
    assert not folders()
    assert ended([child.pid for child in children])
    assert not list(tmp_path.rglob("auth_token"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_outlives_a_driver_that_is_ended(how):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert pids
    if how == signal.SIGKILL:
        driver.kill()
    else:
        os.killpg(driver.pid, how)  # as a terminal does
    driver.wait(60)
    assert ended(pids)
    until_s = time.monotonic() + 10
    while folders() and time.monotonic() < until_s:
        time.sleep(0.1)
    assert not folders()


@contextlib.contextmanager
def answering(text: bytes) -> Iterator[str]:
    """A server that is not Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connected, _ = server.accept()
                with connected:
                    connected.recv(1)
                    connected.sendall(text)

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_without_a_cluster_is_recognised(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        unreachable = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterFailed, match="no Ray cluster can be reached at 127"):
        connect(unreachable)
    with (
        answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(ClusterFailed, match="is not a Ray cluster"),
    ):
        connect(address)
    with answering(b"") as address, pytest.raises(ClusterFailed, match=address):
        connect(address)
    monkeypatch.setenv("RAY_ADDRESS", unreachable)
    with pytest.raises(ClusterFailed, match=unreachable):
        connect()


@pytest.mark.parametrize("address", ["somewhere", "host:port", "host:0", "host:70000", ":1", "ray://host:10001"])
def test_malformed_addresses(address):
    with pytest.raises(InvalidInput, match="address"):
        connect(address)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineMissing, match="pip install ray"):
        connect()
