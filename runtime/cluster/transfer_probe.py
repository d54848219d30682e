"""Measures how long tensors take from node to node, in the same steps as in a session."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ClusterFailed
from .cluster_nodes import ClusterNode, node_failure, on_node
from .device_actor import INLINE_BYTES
from .ray_connection import RayConnection

_START_TIMEOUT_S = 60.0
_RUNS = 7


class TransferProbe:
    """Creates and reads tensors on a node; used as a Ray actor."""

    def create(self, size_bytes: int) -> tuple[float, np.ndarray]:
        """Return a tensor, after the seconds that it took to create."""
        start_s = time.perf_counter()
        array = np.ones(size_bytes, np.uint8)
        return time.perf_counter() - start_s, array

    def read(self, array: np.ndarray) -> int:
        """Return the size of a tensor."""
        return int(array.nbytes)


def measure_transfers(
    connection: RayConnection, nodes: Sequence[ClusterNode], sizes_bytes: Sequence[int]
) -> Mapping[tuple[str, str], tuple[float, ...]]:
    """Measure the seconds until a tensor of one node can be read on another, for each pair of nodes and each size.

    Parameters
    ----------
    nodes : sequence of ClusterNode
        Pairs include a remote node with itself, as its devices exchange tensors through its object store, but not the
        node of this process with itself, as its devices share memory.

    Returns
    -------
    mapping
        Names of the source and the target node -> median time of each size.

    Raises
    ------
    ClusterFailed
        For a node that does not answer.
    """
    ray = connection.ray
    remote = ray.remote(num_cpus=0, max_restarts=0)(TransferProbe)
    probes = {
        node.name: None if node.is_here else remote.options(scheduling_strategy=on_node(ray, node)).remote()
        for node in nodes
    }
    times_s = {}
    try:
        for name, probe in probes.items():
            if probe is not None:
                _wait_until_started(ray, name, probe)
        for source, creator in probes.items():
            for target, reader in probes.items():
                if creator is not None or reader is not None:
                    times = [_transfer_s(ray, creator, reader, size) for size in sizes_bytes]
                    times_s[source, target] = tuple(times)
    except ray.exceptions.RayError as error:
        raise node_failure("of the cluster", error) from error
    finally:
        for probe in probes.values():
            if probe is not None:
                ray.kill(probe)
    return times_s


def _wait_until_started(ray: Any, name: str, probe: Any) -> None:
    reply = probe.read.remote(np.zeros(1, np.uint8))
    if not ray.wait([reply], timeout=_START_TIMEOUT_S)[0]:
        raise ClusterFailed(f"node {name} started no process within {_START_TIMEOUT_S:.0f} s", remedy="see: ray status")
    try:
        ray.get(reply)
    except ray.exceptions.RayError as error:
        raise node_failure(name, error) from error


def _transfer_s(ray: Any, creator: Any, reader: Any, size_bytes: int) -> float:
    """Return the median time from the creation of a tensor to its reading; None as an actor stands for this process."""
    empty = np.zeros(1, np.uint8)
    times = []
    for _ in range(_RUNS):
        start_s = time.perf_counter()
        if creator is None:
            created_s, tensor = 0.0, np.ones(size_bytes, np.uint8)
            if size_bytes > INLINE_BYTES:
                tensor = ray.put(tensor)
        else:
            duration, tensor = creator.create.options(num_returns=2).remote(size_bytes)
            created_s = ray.get(duration)
        if reader is None:
            np.array(ray.get(tensor))
        else:
            ray.get(reader.read.remote(tensor))
        total_s = time.perf_counter() - start_s
        # Each actor's part includes a round trip; one half of it belongs to the transfer, the other does not.
        calls_s = 0.0
        for actor in (creator, reader):
            if actor is not None:
                start_s = time.perf_counter()
                ray.get(actor.read.remote(empty))
                calls_s += (time.perf_counter() - start_s) / 2
        times.append(max(total_s - created_s - calls_s, 1e-6))
    return statistics.median(times)
