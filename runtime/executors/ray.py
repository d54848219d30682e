"""Runs a plan on a Ray cluster, or on a private Ray of this machine: an actor per device, on the node that has it.

Ray places, starts and monitors the actors. Between this process and actors on its own machine tensors stay in shared
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

from ..cluster.cluster_nodes import ClusterNode, cluster_devices, find_node, living_nodes
from ..cluster.plan_files import send_plan, start_receiver
from ..cluster.ray_connection import RayConnection, connect
from ..core_affinity import assign_cores
from ..device import Device
from ..engines import discover
from ..errors import ClusterFailed
from ..plans.plan import Plan
from ..plans.plan_parts import Segment
from ..tensors.containers import deep_copy
from ..tensors.tensor_spec import Arrays
from ..workers.messages import is_shareable
from ..workers.tensor_pool import TensorPool
from .dispatch.dispatcher import Dispatcher
from .dispatch.execution import ExecutorSettings
from .dispatch.host import Host, Tensor, segments_by_device
from .hosts.local_actor import LocalActorStarter
from .hosts.remote_host import ObjectStore, RemoteHost, RemoteTensor
from .hosts.worker_host import WorkerHost, with_threads_for

_CLOSE_TIMEOUT_S = 2.0


def open_executor(plan: Plan, settings: ExecutorSettings) -> Dispatcher:
    """Load every segment of a plan on an actor of its device; see `trisect.runtime.executors.open_executor`.

    Raises
    ------
    EngineMissing
        Where Ray is not installed.
    ClusterFailed
        For a cluster that cannot be reached, or that lacks a device of the plan.
    """
    return Dispatcher(plan, lambda plan: RayHostGroup(plan, settings), settings)


class RayHostGroup:
    """Hosts that are Ray actors; see `HostGroup`."""

    def __init__(self, plan: Plan, settings: ExecutorSettings) -> None:
        self._plan = plan
        self._closing = ExitStack()
        self._lock = threading.Lock()
        self._receivers: dict[str, Any] = {}
        self._folders: dict[tuple[str, frozenset[str]], str] = {}
        self.hosts: dict[str, Host] = {}
        with self._closing:
            self._connection = self._closing.enter_context(connect(settings.address))
            self._store = ObjectStore(self._connection)
            self._pool = TensorPool(shared=True)
            self._closing.callback(self._pool.close)
            self._closing.callback(self._close_receivers)
            used = segments_by_device(plan)
            cores = assign_cores(list(used), settings.options.threads, side_by_side=plan.objective == "throughput")
            read_here: set[str] = set()
            for (device, segments), node in zip(used.items(), _place(self._connection, list(used)), strict=True):
                self.hosts[device.id] = self._host(device, segments, node, settings, cores[device.id])
                if node.is_here:
                    read_here.update(spec.name for segment in segments for spec in segment.inputs)
            self._read_here = read_here
            self._closing = self._closing.pop_all()

    def admit(self, feeds: Arrays) -> Mapping[str, Tensor]:
        """Copy the feeds that actors on this machine read to shared memory."""
        return {
            name: self._pool.copy(array) if name in self._read_here and is_shareable(array) else array
            for name, array in feeds.items()
        }

    def deliver(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Return the outputs as arrays that the caller owns; those of other nodes are copied from the object store."""
        return {
            name: deep_copy(self._store.array(tensor)) if isinstance(tensor, RemoteTensor) else tensor
            for name, tensor in tensors.items()
        }

    def close(self) -> None:
        """Leave the cluster; see `HostGroup.close`."""
        self._closing.close()

    def _host(
        self,
        device: Device,
        segments: list[Segment],
        node: ClusterNode,
        settings: ExecutorSettings,
        cores: tuple[int, ...],
    ) -> Host:
        if not node.is_here:
            return RemoteHost(
                self._connection, node, device, segments, settings.options, self._store, self._send_plan
            )  # fmt: skip
        local = replace(device, id=device.local_id)
        actors = LocalActorStarter(self._connection, node, local, cores)
        folder, options = Path(os.path.abspath(self._plan.folder)), with_threads_for(settings.options, cores)
        return WorkerHost(local, segments, folder, options, self._pool, actors.start, self._store.array)

    def _send_plan(self, node: ClusterNode, segments: Sequence[Segment]) -> str:
        """Copy the plan's files to a node and return the folder there; the devices of a node share it."""
        files = frozenset(segment.file for segment in segments)
        with self._lock:
            if node.id not in self._receivers:
                self._receivers[node.id] = start_receiver(self._connection, node)
            if (node.id, files) not in self._folders:
                receiver = self._receivers[node.id]
                self._folders[node.id, files] = send_plan(self._connection, receiver, node, self._plan, sorted(files))
            return self._folders[node.id, files]

    def _close_receivers(self) -> None:
        ray = self._connection.ray
        closed = [receiver.close.remote() for receiver in self._receivers.values()]
        if closed:
            ray.wait(closed, num_returns=len(closed), timeout=_CLOSE_TIMEOUT_S)
        for receiver in self._receivers.values():
            ray.kill(receiver)


def _place(connection: RayConnection, devices: Sequence[Device]) -> list[ClusterNode]:
    """Return the node of each device: the one in its id, else this machine if it has it, else another that has it."""
    living = living_nodes(connection)
    here = next((node for node in living if node.is_here), None)
    if here is None:
        raise ClusterFailed("this machine is not a living node of the cluster", remedy="see: ray status")
    local_ids = {device.id for device in discover()}
    elsewhere: dict[str, ClusterNode] | None = None
    places = []
    for device in devices:
        if device.node:
            places.append(find_node(device.node, living))
        elif device.id in local_ids or len(living) == 1:
            places.append(here)
        else:
            if elsewhere is None:
                by_name = {node.name: node for node in living}
                elsewhere = {d.local_id: by_name[d.node] for d in reversed(cluster_devices(connection, living))}
            if device.id not in elsewhere and device.is_real:
                raise ClusterFailed(
                    f"no node of the cluster has {device.id}",
                    remedy=f"the nodes have {', '.join(sorted(elsewhere))}",
                )
            places.append(elsewhere.get(device.id, here))
    return places
