"""Starts a worker as a child process, on processor cores of its own, that ends when this process does."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time

from ..errors import EngineFailed
from .channel import TOKEN_BYTES, Channel, accept_with_token
from .python_process import start_python

HAS_UNIX_SOCKETS = hasattr(socket, "send_fds")
_MAIN = "trisect.runtime.workers.worker_main"
_EXIT_TIMEOUT_S = 2.0
_START_TIMEOUT_S = 60.0
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
    On Linux it ends with the thread that creates this object, at the latest.
    """

    def __init__(self, cores: tuple[int, ...] = ()) -> None:
        start = _over_unix_socket if HAS_UNIX_SOCKETS else _over_loopback
        self._process, connected = start(list(cores))
        self.channel = Channel(connected)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        self._process.kill()

    def close(self) -> None:
        """Close the channel and wait for the process to end; kill it if it takes too long."""
        self.channel.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _over_unix_socket(cores: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        number = theirs.fileno()
        try:
            process = start_python(_MAIN, number, 0, cores, stdin=subprocess.DEVNULL, pass_fds=(number,))
        except BaseException:
            ours.close()
            raise
    return process, ours


def _over_loopback(cores: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    token = secrets.token_bytes(TOKEN_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_POLL_S)
        process = start_python(_MAIN, -1, server.getsockname()[1], cores, stdin=subprocess.PIPE)
        try:
            assert process.stdin is not None
            with process.stdin as stdin:  # not an argument, which every user of the machine can see
                stdin.write(token)
            deadline_s = time.monotonic() + _START_TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline_s:
                connected = accept_with_token(server, token, _START_TIMEOUT_S)
                if connected is not None:
                    return process, connected
            raise EngineFailed("a worker process ended before it could be used")
        except BaseException:
            process.kill()
            process.wait()
            raise
