"""Which machines a cluster has, what each is called, and which devices it really has.

A device of a cluster is called after its node and after what it is there: ``edge1/npu:qnn``. A node's name is the
label ``trisect.node`` that it was started with, or the name that Ray knows it by, or its host's; Ray's own numbers
change at every start, and a plan must still mean the same machine tomorrow.
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
from .ray_connection import Connection

LABEL = "trisect.node"
"""Of a Ray node: the name that trisect knows it by (``ray start --labels trisect.node=edge1``)."""
_SURVEY_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive."""

    id: str
    """Ray's, which changes at every start."""
    name: str
    host: str
    is_here: bool
    """Whether this process runs on it."""
    resources: Mapping[str, float]


def nodes(connection: Connection) -> list[Node]:
    """The living nodes of a cluster, this process's own first, then by name."""
    ray = connection.ray
    here = ray.get_runtime_context().get_node_id()
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: (_called(node), node["NodeID"]))
    count: Counter[str] = Counter()
    found = []
    for node in alive:
        called = _called(node)
        count[called] += 1
        name = f"{called}-{count[called]}" if count[called] > 1 else called
        host = node["NodeManagerHostname"]
        found.append(Node(node["NodeID"], name, host, node["NodeID"] == here, dict(node["Resources"])))
    return sorted(found, key=lambda node: not node.is_here)


def node_named(name: str, among: Iterable[Node]) -> Node:
    """The node of that name.

    Raises
    ------
    ClusterFailed
        When no living node has it.
    """
    among = list(among)
    for node in among:
        if node.name == name:
            return node
    names = ", ".join(node.name for node in among)
    raise ClusterFailed(f"the cluster has no node {name!r} now", remedy=f"its nodes are {names}; or plan again")


def on_node(ray: Any, node: Node) -> Any:
    """Ray's strategy that keeps a task or an actor on one node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def run_on(
    connection: Connection, among: Iterable[Node], job: Callable[..., T], *args: Any, limit_s: float
) -> dict[str, T]:
    """Run a function of trisect on several nodes at once; it takes no share of a node's declared processors.

    Returns
    -------
    dict
        Name of the node -> what it gave; nodes that died meanwhile are not in it.

    Raises
    ------
    ClusterFailed
        Naming the node that did not answer in time, or that has no trisect to run it.
    """
    ray = connection.ray
    remote = ray.remote(num_cpus=0, max_retries=0)(job)
    asked = {node.name: (node, remote.options(scheduling_strategy=on_node(ray, node)).remote(*args)) for node in among}
    until_s = time.monotonic() + limit_s
    answers = {}
    for name, (node, answer) in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=max(0.0, until_s - time.monotonic()))
        except ray.exceptions.GetTimeoutError as error:
            message = f"node {name} did not answer within {limit_s:.0f} s"
            raise ClusterFailed(message, remedy="see: ray status") from error
        except ray.exceptions.RayError as error:
            if any(found.id == node.id for found in nodes(connection)):
                raise unanswered(name, error) from error
    return answers


def run_at(connection: Connection, node: Node, job: Callable[..., T], *args: Any, limit_s: float) -> T:
    """As `run_on`, on one node, which must not die meanwhile."""
    answers = run_on(connection, [node], job, *args, limit_s=limit_s)
    if node.name not in answers:
        raise ClusterFailed(f"node {node.name} died", remedy="start it again, or plan without it")
    return answers[node.name]


def unanswered(name: str, error: BaseException) -> ClusterFailed:
    """Ray's report of a node, in one line."""
    cause = getattr(error, "cause", None) or error
    text = one_line(cause, 2000)
    if "No module named 'trisect" in text:
        return ClusterFailed(f"node {name} has no trisect", remedy="install the same trisect on every node")
    return ClusterFailed(f"node {name} failed: {text[:300]}", remedy="see: ray status")


def devices(connection: Connection, among: Iterable[Node] | None = None) -> list[Device]:
    """What each node's engines list there, under the cluster's names.

    Raises
    ------
    ClusterFailed
        Where a node does not answer, or has another version of trisect.
    """
    among = nodes(connection) if among is None else list(among)
    found = []
    for name, (version, listed) in run_on(connection, among, _survey, limit_s=_SURVEY_S).items():
        if version != _version():
            raise ClusterFailed(
                f"node {name} has trisect {version}, this process {_version()}",
                remedy="install the same trisect on every node",
            )
        here = msgspec.json.decode(listed, type=list[Device])
        found += [replace(device, id=f"{name}/{device.id}") for device in here]
    return found


def _survey() -> tuple[str, bytes]:
    """Runs on a node: the version of trisect there, and its devices."""
    from ..engines import discover

    return _version(), msgspec.json.encode(discover())


def _version() -> str:
    from importlib.metadata import version

    return version("trisect")


def _called(node: Mapping[str, Any]) -> str:
    """What a node is called before doubles are told apart; fit to stand in a device's id."""
    name = node.get("NodeName") or ""
    if not name or name == node["NodeManagerAddress"]:
        name = node["NodeManagerHostname"]
    name = (node.get("Labels") or {}).get(LABEL) or name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
