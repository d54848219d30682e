"""Starts a worker as a process of its own, on processor cores of its own, that ends when this process does."""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import subprocess
import sys
import time
from typing import Any

from ..errors import EngineFailed
from .channel import Channel
from .worker_main import TOKEN_BYTES

HAS_UNIX_SOCKETS = hasattr(socket, "send_fds")
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from trisect.runtime.workers.worker_main import main; main(*json.loads(sys.argv[2]))"
)
_GRACE_S = 2.0
_START_S = 60.0
_POLL_S = 0.2


class WorkerProcess:
    """A process that serves one channel.

    Parameters
    ----------
    cores : tuple of int
        Processor cores that it may use; empty = all.

    Raises
    ------
    EngineFailed
        Where the system starts no more processes.

    Notes
    -----
    On Linux it ends with the thread that makes this, at the latest.
    """

    def __init__(self, cores: tuple[int, ...] = ()) -> None:
        start = _over_unix_socket if HAS_UNIX_SOCKETS else _over_loopback
        self._process, connected = start(list(cores))
        self.channel = Channel(connected)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._process.kill()

    def close(self) -> None:
        """Hang up and see it gone; one that lingers is ended."""
        self.channel.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _over_unix_socket(cores: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            process = _start([theirs.fileno(), 0, cores], stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
    return process, ours


def _over_loopback(cores: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    token = secrets.token_bytes(TOKEN_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_POLL_S)
        process = _start([-1, server.getsockname()[1], cores], stdin=subprocess.PIPE)
        try:
            assert process.stdin is not None
            with process.stdin as stdin:  # not an argument: those are for all to see
                stdin.write(token)
            return process, _accept(server, process, token)
        except BaseException:
            process.kill()
            process.wait()
            raise


def _accept(server: socket.socket, process: subprocess.Popen[bytes], token: bytes) -> socket.socket:
    """The connection of whoever knows the token; strangers are turned away."""
    until_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until_s:
        try:
            connected, _ = server.accept()
        except TimeoutError:
            continue
        connected.settimeout(_START_S)
        try:
            shown = connected.recv(TOKEN_BYTES, socket.MSG_WAITALL)
        except OSError:
            shown = b""
        if hmac.compare_digest(shown, token):
            connected.settimeout(None)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        connected.close()
    raise EngineFailed("a worker process ended before it could be used")


def _start(arguments: list[Any], **settings: Any) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise EngineFailed("this program does not say which Python runs it", remedy="use the executor 'threads'")
    command = [sys.executable, "-c", _BOOTSTRAP, json.dumps(sys.path), json.dumps(arguments)]
    try:
        return subprocess.Popen(command, **settings)
    except OSError as error:
        raise EngineFailed(f"a worker process cannot be started: {error.strerror or error}") from error
