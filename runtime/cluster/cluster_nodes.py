"""The nodes of a Ray cluster, their names and their devices.

A device of a cluster is named after its node and its id there: ``edge1/npu:qnn``. A node's name is the label
``trisect.node`` that it was started with, or its name in Ray, or its host name. Ray's own ids change at every start,
but a plan must still mean the same machine tomorrow.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from ..device import Device
from ..errors import ClusterFailed, one_line
from .ray_connection import RayConnection

NODE_LABEL = "trisect.node"
"""Ray label with the name that a node has in trisect (``ray start --labels trisect.node=edge1``)."""
_DEVICES_TIMEOUT_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class ClusterNode:
    """A living machine of the cluster."""

    id: str
    """Ray's, which changes at every start."""
    name: str
    host: str
    is_here: bool
    """Whether this process runs on it."""
    resources: Mapping[str, float]
    """Ray's, by name."""


def living_nodes(connection: RayConnection) -> list[ClusterNode]:
    """Return the living nodes of a cluster: first the one of this process, then by name."""
    ray = connection.ray
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    count: Counter[str] = Counter()
    living = []
    for node in sorted(alive, key=lambda node: (_base_name(node), node["NodeID"])):
        base = _base_name(node)
        count[base] += 1
        name = f"{base}-{count[base]}" if count[base] > 1 else base
        host = node["NodeManagerHostname"]
        living.append(ClusterNode(node["NodeID"], name, host, node["NodeID"] == here, dict(node["Resources"])))
    return sorted(living, key=lambda node: not node.is_here)


def find_node(name: str, nodes: Iterable[ClusterNode]) -> ClusterNode:
    """Return the node of a name.

    Raises
    ------
    ClusterFailed
        Where no living node has it.
    """
    nodes = list(nodes)
    for node in nodes:
        if node.name == name:
            return node
    names = ", ".join(node.name for node in nodes)
    raise ClusterFailed(f"the cluster has no node {name!r} now", remedy=f"its nodes are {names}; or plan again")


def on_node(ray: Any, node: ClusterNode) -> Any:
    """Return Ray's scheduling strategy that keeps a task or an actor on one node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def call_on_nodes(
    connection: RayConnection, nodes: Iterable[ClusterNode], function: Callable[..., T], *args: Any, timeout_s: float
) -> dict[str, T]:
    """Call a function of trisect on several nodes at once; it takes none of a node's declared processors.

    Returns
    -------
    dict
        Name of the node -> result; without nodes that died meanwhile.

    Raises
    ------
    ClusterFailed
        Where a node does not answer in time, or has no trisect; names the node.
    """
    ray = connection.ray
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = {node.name: (node, remote.options(scheduling_strategy=on_node(ray, node)).remote(*args)) for node in nodes}
    deadline_s = time.monotonic() + timeout_s
    results = {}
    for name, (node, reply) in calls.items():
        try:
            results[name] = ray.get(reply, timeout=max(0.0, deadline_s - time.monotonic()))
        except ray.exceptions.GetTimeoutError as error:
            message = f"node {name} did not answer within {timeout_s:.0f} s"
            raise ClusterFailed(message, remedy="see: ray status") from error
        except ray.exceptions.RayError as error:
            if any(living.id == node.id for living in living_nodes(connection)):
                raise node_failure(name, error) from error
    return results


def call_on_node(
    connection: RayConnection, node: ClusterNode, function: Callable[..., T], *args: Any, timeout_s: float
) -> T:
    """As `call_on_nodes`, on one node, which must not die meanwhile."""
    results = call_on_nodes(connection, [node], function, *args, timeout_s=timeout_s)
    if node.name not in results:
        raise ClusterFailed(f"node {node.name} died", remedy="start it again, or plan without it")
    return results[node.name]


def node_failure(name: str, error: BaseException) -> ClusterFailed:
    """Return Ray's error about a node in one line."""
    cause = getattr(error, "cause", None) or error
    text = one_line(cause, 2000)
    if "No module named 'trisect" in text:
        return ClusterFailed(f"node {name} has no trisect", remedy="install the same trisect on every node")
    return ClusterFailed(f"node {name} failed: {text[:300]}", remedy="see: ray status")


def cluster_devices(connection: RayConnection, nodes: Iterable[ClusterNode] | None = None) -> list[Device]:
    """Return the devices that the engines of each node list there, under their names in the cluster.

    Raises
    ------
    ClusterFailed
        Where a node does not answer, or has another version of trisect.
    """
    nodes = living_nodes(connection) if nodes is None else list(nodes)
    devices = []
    answers = call_on_nodes(connection, nodes, _list_devices, timeout_s=_DEVICES_TIMEOUT_S)
    for name, (version, encoded) in answers.items():
        if version != _version():
            raise ClusterFailed(
                f"node {name} has trisect {version}, this process {_version()}",
                remedy="install the same trisect on every node",
            )
        local = msgspec.json.decode(encoded, type=list[Device])
        devices += [replace(device, id=f"{name}/{device.id}") for device in local]
    return devices


def _list_devices() -> tuple[str, bytes]:
    """Return the version of trisect on a node, and its devices as JSON; runs there."""
    from ..engines import discover

    return _version(), msgspec.json.encode(discover())


def _version() -> str:
    from importlib.metadata import version

    return version("trisect")


def _base_name(node: Mapping[str, Any]) -> str:
    """Return the name of a node before duplicates are numbered, with the characters that a device id can have."""
    name = node.get("NodeName") or ""
    if not name or name == node["NodeManagerAddress"]:
        name = node["NodeManagerHostname"]
    name = (node.get("Labels") or {}).get(NODE_LABEL) or name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
