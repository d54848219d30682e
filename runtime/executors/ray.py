"""Runs a plan on a Ray cluster, or on a private Ray of this machine: an actor for each device, on the node that has it.

Ray places, starts and watches the actors. Between this process and actors on its own machine tensors stay in shared
memory, as with ``processes``; other nodes are reached through Ray's object stores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.cluster_nodes import Node, devices, node_named, nodes
from ..cluster.plan_files import bring, open_depot
from ..cluster.ray_connection import Connection, connect
from ..device import Device
from ..engines import discover
from ..errors import ClusterFailed
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.containers import owned
from ..tensors.tensor_spec import Arrays
from ..workers.tensor_pool import Pool
from . import Settings
from .dispatch.dispatcher import Dispatcher
from .dispatch.hosts import Host, Tensor, segments_on
from .processes import cores_for
from .ray_hosts.local_host import NearHost
from .ray_hosts.remote_host import Carrier, FarHost, FarTensor


def open_executor(plan: Plan, settings: Settings) -> Dispatcher:
    """Load every segment of a plan on an actor of its device.

    Raises
    ------
    EngineMissing
        Where Ray is not installed.
    ClusterFailed
        For a cluster that cannot be reached, or that lacks a device of the plan.
    InvalidPlan
        For segments that wait for each other, or read what nobody makes.
    EngineFailed
        Where an engine refuses a segment; those loaded before are closed again.
    """
    return Dispatcher(plan, lambda plan: RayCrew(plan, settings), settings)


class RayCrew:
    """Hosts that are Ray actors; see `Crew`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._closing = ExitStack()
        self._lock = threading.Lock()
        self._depots: dict[str, Any] = {}
        self._folders: dict[tuple[str, frozenset[str]], str] = {}
        self.hosts: dict[str, Host] = {}
        with self._closing:
            self._connection = self._closing.enter_context(connect(settings.address))
            self._carrier = Carrier(self._connection)
            self._pool = Pool(shared=True)
            self._closing.callback(self._pool.close)
            self._closing.callback(self._close_depots)
            work = segments_on(plan)
            self._cores = cores_for(list(work), settings.options.threads, split=plan.objective == "throughput")
            for (device, segments), node in zip(work.items(), _places(self._connection, list(work)), strict=True):
                self.hosts[device.id] = self._host(device, segments, node, settings)
            self._read_here = {
                spec.name
                for device, segments in work.items()
                if isinstance(self.hosts[device.id], NearHost)
                for segment in segments
                for spec in segment.inputs
            }
            self._closing = self._closing.pop_all()

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """The feeds in memory that the workers share, or in the object store where other nodes alone read them."""
        admitted: dict[str, Tensor] = {}
        for name, array in feeds.items():
            if name in self._read_here and array.nbytes and array.dtype.kind not in "OUS":
                admitted[name] = self._pool.copy(array)
            else:
                admitted[name] = array
        return admitted

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """The outputs as arrays of the caller's own; what comes from other nodes is copied out of the object store."""
        return {
            name: owned(self._carrier.array(value)) if isinstance(value, FarTensor) else value
            for name, value in tensors.items()
        }

    def close(self) -> None:
        """Leave the cluster; see `Crew.close`."""
        self._closing.close()

    def _host(self, device: Device, segments: list[Segment], node: Node, settings: Settings) -> Host:
        if node.is_here:
            here = replace(device, id=device.local_id)
            return NearHost(
                self._connection, node, here, segments, Path(os.path.abspath(self._plan.folder)), settings.options,
                self._pool, self._cores[device.id], self._carrier.array,
            )  # fmt: skip
        return FarHost(self._connection, node, device, segments, settings, self._carrier, self._bring)

    def _bring(self, node: Node, segments: Sequence[Segment]) -> str:
        """The plan's folder on a node; devices of one node share it."""
        files = frozenset(segment.file for segment in segments)
        with self._lock:
            if node.id not in self._depots:
                self._depots[node.id] = open_depot(self._connection, node)
            if (node.id, files) not in self._folders:
                depot = self._depots[node.id]
                self._folders[node.id, files] = bring(self._connection, depot, node, self._plan, sorted(files))
            return self._folders[node.id, files]

    def _close_depots(self) -> None:
        ray = self._connection.ray
        closed = [depot.close.remote() for depot in self._depots.values()]
        if closed:
            ray.wait(closed, num_returns=len(closed), timeout=2.0)
        for depot in self._depots.values():
            ray.kill(depot)


def _places(connection: Connection, wanted: Sequence[Device]) -> list[Node]:
    """The node of each device: the one its id names, else this machine where it has it, else another that has it."""
    among = nodes(connection)
    own = next((node for node in among if node.is_here), None)
    if own is None:
        raise ClusterFailed("this machine is no living node of the cluster", remedy="see: ray status")
    here = {device.id for device in discover()}
    elsewhere: dict[str, Node] | None = None
    found = []
    for device in wanted:
        if device.node:
            found.append(node_named(device.node, among))
        elif device.id in here or len(among) == 1:
            found.append(own)
        else:
            if elsewhere is None:
                by_name = {node.name: node for node in among}
                elsewhere = {d.local_id: by_name[d.node] for d in reversed(devices(connection, among))}
            if device.id not in elsewhere and device.is_real:
                raise ClusterFailed(
                    f"no node of the cluster has {device.id}", remedy=f"there are {', '.join(sorted(elsewhere))}"
                )
            found.append(elsewhere.get(device.id, own))
    return found
