"""Hosts for `ray` on the driver's own machine: Ray starts and places the process, the tensors stay in shared memory.

The actor calls a socket of the driver's and serves it as any worker does, so that a hop costs microseconds and a death
shows at once, as the socket's end.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ...cluster.cluster_nodes import Node, unanswered
from ...cluster.ray_connection import Connection
from ...device import Device
from ...engines.base import LoadOptions
from ...errors import ClusterFailed, DeviceLost, EngineFailed
from ...plans.plan_parts import Segment
from ...workers.channel import Channel
from ...workers.tensor_pool import Pool
from ...workers.worker_client import Worker
from ...workers.worker_main import TOKEN_BYTES
from ..dispatch.hosts import Ran, Tensor, refuse_absent
from ..dispatch.tensor_flow import naming
from .ray_actors import START_S, start_actor

_POLL_S = 0.2


class NearHost:
    """A device's segments in an actor on this machine; see `Host`."""

    can_kill = True

    def __init__(
        self,
        connection: Connection,
        node: Node,
        device: Device,
        segments: Sequence[Segment],
        folder: Path,
        options: LoadOptions,
        pool: Pool,
        cores: tuple[int, ...],
        as_array: Callable[[Tensor], Any],
    ) -> None:
        self._connection = connection
        self._node = node
        self._device = device
        self._segments = segments
        self._folder = folder
        self._options = replace(options, threads=len(cores)) if cores and options.threads is None else options
        self._cores = cores
        self._pool = pool
        self._as_array = as_array
        self._worker: Worker | None = None
        self._process: psutil.Process | None = None
        self._is_fresh = True
        self._actor: Any = start_actor(connection, node, device)  # starts while the others do

    @property
    def pid(self) -> int | None:
        """Of the actor's process; None when there is none."""
        return self._process.pid if self._process is not None else None

    def open(self) -> None:
        """Load the segments; see `Host.open`."""
        if not self._is_fresh:
            self.close()
            self._actor = start_actor(self._connection, self._node, self._device)
        self._is_fresh = False
        self._worker = Worker(self._called(), self._pool, self._device)
        for segment in self._segments:
            with naming(segment):
                try:
                    self._worker.load(segment, self._folder / segment.file, self._options)
                except EngineFailed as error:
                    refuse_absent(self._device, error)
                    raise

    def run(self, segment: Segment, feeds: Mapping[str, Tensor]) -> Ran:
        """Compute one segment; see `Host.run`."""
        if self._worker is None:
            raise DeviceLost(f"the worker of {self._device.id} is not there")
        return self._worker.run(segment, {name: self._as_array(value) for name, value in feeds.items()})

    def kill(self) -> None:
        """End the actor's process; see `Host.kill`."""
        with contextlib.suppress(psutil.Error):  # it was quicker
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the actor; see `Host.close`."""
        worker, self._worker = self._worker, None
        actor, self._actor = self._actor, None
        if worker is not None:
            worker.close()
        if actor is not None:
            self._connection.ray.kill(actor)

    def _called(self) -> Channel:
        """A channel to the actor, which proves with a token that it is the one."""
        token = secrets.token_bytes(TOKEN_BYTES)
        folder = tempfile.mkdtemp(prefix="trisect-")
        try:
            with _listening(Path(folder)) as server:
                answer = self._actor.call.remote(server.family, server.getsockname(), token, self._cores)
                return Channel(self._accepted(server, answer, token))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _accepted(self, server: socket.socket, answer: Any, token: bytes) -> socket.socket:
        ray = self._connection.ray
        server.settimeout(_POLL_S)
        until_s = time.monotonic() + START_S
        connected: socket.socket | None = None
        while time.monotonic() < until_s:
            if connected is None:
                try:
                    connected, _ = server.accept()
                    connected.settimeout(START_S)
                    if not hmac.compare_digest(_read(connected), token):
                        connected.close()
                        connected = None
                except TimeoutError:
                    pass
            done, _ = ray.wait([answer], timeout=0 if connected is None else START_S)
            if done:
                try:
                    self._process = psutil.Process(ray.get(answer))
                except (ray.exceptions.RayError, psutil.Error) as error:
                    raise _lost(self._node, self._device, error) from error
                if connected is not None:
                    connected.settimeout(None)
                    return connected
        raise ClusterFailed(
            f"no process for {self._device.id} was started within {START_S:.0f} s", remedy="see: ray status"
        )


def _lost(node: Node, device: Device, error: BaseException) -> DeviceLost:
    return DeviceLost(f"the worker of {device.id} is gone: {unanswered(node.name, error).message}")


def _listening(folder: Path) -> socket.socket:
    """A socket that only this user reaches, or where there is no such thing only this machine."""
    if not hasattr(socket, "send_fds"):
        return socket.create_server(("127.0.0.1", 0))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(str(folder / "call"))
        server.listen(1)
    except BaseException:
        server.close()
        raise
    return server


def _read(connected: socket.socket) -> bytes:
    try:
        return connected.recv(TOKEN_BYTES, socket.MSG_WAITALL)
    except OSError:
        return b""
