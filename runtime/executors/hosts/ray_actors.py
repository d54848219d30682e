"""Starts the Ray actor of a device on the node that has the device."""

from __future__ import annotations

import re
from typing import Any

from ...cluster.cluster_nodes import ClusterNode, node_failure, on_node
from ...cluster.device_actor import DeviceActor
from ...cluster.ray_connection import RayConnection
from ...device import Device
from ...errors import DeviceLost

START_TIMEOUT_S = 60.0
"""A node that has not started a process by then is not going to."""


class ActorStarter:
    """Starts actors for one device: the first one at once, so that all actors of a plan start side by side."""

    def __init__(self, connection: RayConnection, node: ClusterNode, device: Device) -> None:
        self._connection = connection
        self._node = node
        self._device = device
        self._first: Any = self._new()

    def start(self) -> Any:
        """Return Ray's handle of an actor that was not returned before; it may still be starting."""
        actor, self._first = self._first, None
        return self._new() if actor is None else actor

    def _new(self) -> Any:
        ray, device = self._connection.ray, self._device
        # Ray must not restart it: a restarted actor has not loaded its segments.
        remote = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(DeviceActor)
        return remote.options(
            resources=required_resources(self._node, device),
            scheduling_strategy=on_node(ray, self._node),
            _labels={"trisect.kind": device.kind, "trisect.device": re.sub("[:#]", ".", device.local_id)},
        ).remote()


def required_resources(node: ClusterNode, device: Device) -> dict[str, float]:
    """Return the custom Ray resources that an actor for a device takes.

    A node that was started with ``--resources '{"trisect_npu": 1}'`` lets one session at a time use its NPU; one that
    declares nothing lets sessions share it.

    Examples
    --------
    >>> npu = Device("npu:qnn", "npu", "qnn", "x")
    >>> required_resources(ClusterNode("1", "edge", "edge", False, {"CPU": 4.0, "trisect_npu": 1.0}), npu)
    {'trisect_npu': 1.0}
    """
    name = f"trisect_{device.kind}"
    return {name: 1.0} if node.resources.get(name, 0) >= 1 else {}


def worker_lost(node: ClusterNode, device: Device, error: BaseException) -> DeviceLost:
    """Return the error of a device whose actor is gone, with Ray's reason."""
    reason = node_failure(node.name, error).message
    return DeviceLost(f"the worker of {device.id} is gone: {reason}", device=device.id, reason=reason)
