"""Ray actors on the driver's own machine: Ray starts and places the process, the tensors stay in shared memory.

The actor connects to a socket of the driver and serves it like any worker, so that running a segment costs microseconds
and the death of the process is detected at once, when the socket closes.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from ...cluster.cluster_nodes import ClusterNode
from ...cluster.ray_connection import RayConnection
from ...device import Device
from ...errors import ClusterFailed
from ...scratch_folder import ScratchFolder
from ...workers.channel import TOKEN_BYTES, Channel, accept_with_token
from .ray_actors import START_TIMEOUT_S, ActorStarter, worker_lost

_POLL_S = 0.2


class LocalActor:
    """A Ray actor on this machine that serves a channel; see `StartedWorker`."""

    def __init__(self, connection: RayConnection, actor: Any, process: psutil.Process, channel: Channel) -> None:
        self._connection = connection
        self._actor = actor
        self._process = process
        self.channel = channel

    @property
    def pid(self) -> int:
        """Of the actor's process."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(psutil.Error):  # it may have ended already
            self._process.kill()

    def close(self) -> None:
        """Close the channel and end the actor."""
        self.channel.close()
        self._connection.ray.kill(self._actor)


class LocalActorStarter:
    """Starts actors for one device on this machine and connects them to this process.

    Parameters
    ----------
    node : ClusterNode
        This machine.
    cores : tuple of int
        Processor cores that the actor may use; empty = all.
    """

    def __init__(self, connection: RayConnection, node: ClusterNode, device: Device, cores: tuple[int, ...]) -> None:
        self._connection = connection
        self._node = node
        self._device = device
        self._cores = cores
        self._actors = ActorStarter(connection, node, device)

    def start(self) -> LocalActor:
        """Start an actor and wait until it has connected.

        Raises
        ------
        ClusterFailed
            Where Ray starts no process in time.
        DeviceLost
            Where the actor dies before.
        """
        actor = self._actors.start()
        token = secrets.token_bytes(TOKEN_BYTES)
        try:
            with (
                ScratchFolder("actor") as folder,
                _listen(folder) as server,
            ):
                reply = actor.connect_to_driver.remote(server.family, server.getsockname(), token, self._cores)
                connected, process = self._accept(server, reply, token)
        except BaseException:
            self._connection.ray.kill(actor)
            raise
        return LocalActor(self._connection, actor, process, Channel(connected))

    def _accept(self, server: socket.socket, reply: Any, token: bytes) -> tuple[socket.socket, psutil.Process]:
        ray = self._connection.ray
        server.settimeout(_POLL_S)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        connected: socket.socket | None = None
        while time.monotonic() < deadline_s:
            if connected is None:
                connected = accept_with_token(server, token, START_TIMEOUT_S)
            done, _ = ray.wait([reply], timeout=0 if connected is None else START_TIMEOUT_S)
            if done:
                try:
                    process = psutil.Process(ray.get(reply))
                except (ray.exceptions.RayError, psutil.Error) as error:
                    raise worker_lost(self._node, self._device, error) from error
                if connected is not None:
                    return connected, process
        raise ClusterFailed(
            f"no process for {self._device.id} was started within {START_TIMEOUT_S:.0f} s", remedy="see: ray status"
        )


def _listen(folder: Path) -> socket.socket:
    """Return a socket that only this user can reach, or only this machine where there are no Unix sockets."""
    if not hasattr(socket, "send_fds"):
        return socket.create_server(("127.0.0.1", 0))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(str(folder / "driver"))
        server.listen(1)
    except BaseException:
        server.close()
        raise
    return server
