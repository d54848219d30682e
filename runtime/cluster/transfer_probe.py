"""Times how tensors get from node to node, by the very steps that a session takes them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ClusterFailed
from .cluster_nodes import Node, on_node, unanswered
from .device_actor import INLINE_BYTES
from .ray_connection import Connection

_START_S = 60.0
_RUNS = 7


class Probe:
    """On a node: makes and takes tensors; used as a Ray actor."""

    def make(self, size_bytes: int) -> tuple[float, np.ndarray]:
        """A tensor for somebody else, and how long it took to make."""
        start_s = time.perf_counter()
        array = np.ones(size_bytes, np.uint8)
        return time.perf_counter() - start_s, array

    def take(self, array: np.ndarray) -> int:
        """Look at a tensor; its size."""
        return int(array.nbytes)


def time_hops(
    connection: Connection, among: Sequence[Node], sizes_bytes: Sequence[int]
) -> Mapping[tuple[str, str], tuple[float, ...]]:
    """Seconds until a tensor that one node made can be read on another, for each pair of nodes and each size.

    Parameters
    ----------
    connection : Connection
    among : sequence of Node
        Also a node with itself: two devices of a node elsewhere exchange tensors through its object store. Not this
        process's own with itself: its devices share memory.
    sizes_bytes : sequence of int

    Returns
    -------
    mapping
        Names of the source's and the target's node -> median time of each size.

    Raises
    ------
    ClusterFailed
        For a node that does not answer.
    """
    ray = connection.ray
    remote = ray.remote(num_cpus=0, max_restarts=0)(Probe)
    probes = {
        node.name: None if node.is_here else remote.options(scheduling_strategy=on_node(ray, node)).remote()
        for node in among
    }
    found = {}
    try:
        for name, probe in probes.items():
            if probe is not None:
                _wait(ray, name, probe)
        for source, maker in probes.items():
            for target, taker in probes.items():
                if maker is not None or taker is not None:
                    times = [_hop_s(ray, maker, taker, size) for size in sizes_bytes]
                    found[source, target] = tuple(times)
    except ray.exceptions.RayError as error:
        raise unanswered("of the cluster", error) from error
    finally:
        for probe in probes.values():
            if probe is not None:
                ray.kill(probe)
    return found


def _wait(ray: Any, name: str, probe: Any) -> None:
    answer = probe.take.remote(np.zeros(1, np.uint8))
    if not ray.wait([answer], timeout=_START_S)[0]:
        raise ClusterFailed(f"node {name} started no process within {_START_S:.0f} s", remedy="see: ray status")
    try:
        ray.get(answer)
    except ray.exceptions.RayError as error:
        raise unanswered(name, error) from error


def _hop_s(ray: Any, maker: Any, taker: Any, size_bytes: int) -> float:
    """From the end of the making to the beginning of the reading; this process stands in for the node it is on."""
    nothing = np.zeros(1, np.uint8)
    times = []
    for _ in range(_RUNS):
        start_s = time.perf_counter()
        if maker is None:
            made_s, tensor = 0.0, np.ones(size_bytes, np.uint8)
            if size_bytes > INLINE_BYTES:
                tensor = ray.put(tensor)
        else:
            told, tensor = maker.make.options(num_returns=2).remote(size_bytes)
            made_s = ray.get(told)
        if taker is None:
            np.array(ray.get(tensor))
        else:
            ray.get(taker.take.remote(tensor))
        whole_s = time.perf_counter() - start_s
        # A question and its answer frame each actor's part; of the two only one way each belongs to the hop.
        asking_s = 0.0
        for actor in (maker, taker):
            if actor is not None:
                start_s = time.perf_counter()
                ray.get(actor.take.remote(nothing))
                asking_s += (time.perf_counter() - start_s) / 2
        times.append(max(whole_s - made_s - asking_s, 1e-6))
    return statistics.median(times)
