"""Starts the actor of one device on the node that has it."""

from __future__ import annotations

import re
from typing import Any

from ...cluster.cluster_nodes import Node, on_node
from ...cluster.device_actor import DeviceActor
from ...cluster.ray_connection import Connection
from ...device import Device

START_S = 60.0
"""A node that has not started a process by then does not do so any more."""


def claim(node: Node, device: Device) -> dict[str, float]:
    """What an actor for a device takes of a node's own resources.

    A node that is started with ``--resources '{"trisect_npu": 1}'`` lets one session at a time use its NPU; one that
    declares nothing leaves it to the sessions.

    Examples
    --------
    >>> npu = Device("npu:qnn", "npu", "qnn", "x")
    >>> claim(Node("1", "edge", "edge", False, {"CPU": 4.0, "trisect_npu": 1.0}), npu)
    {'trisect_npu': 1.0}
    """
    name = f"trisect_{device.kind}"
    return {name: 1.0} if node.resources.get(name, 0) >= 1 else {}


def start_actor(connection: Connection, node: Node, device: Device) -> Any:
    """Ray's handle of a new actor, which may still be starting; it is never started anew behind our back."""
    remote = connection.ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(DeviceActor)
    return remote.options(
        resources=claim(node, device),
        scheduling_strategy=on_node(connection.ray, node),
        _labels={"trisect.kind": device.kind, "trisect.device": re.sub("[:#]", ".", device.local_id)},
    ).remote()
