"""Copies the files of a plan to a node that does not share its folder: sent in pieces, verified, removed at the end.

One receiver serves all devices of a node, so that weights are sent once.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClusterFailed, InvalidPlan, StorageFailed
from ..plans.plan import Plan
from ..scratch_folder import ScratchFolder
from .cluster_nodes import ClusterNode, node_failure, on_node
from .ray_connection import RayConnection

_PIECE_BYTES = 16 << 20
_PIECES_IN_FLIGHT = 2
_START_TIMEOUT_S = 60.0


class PlanReceiver:
    """Receives files on a node into a folder that is removed with its process; used as a Ray actor."""

    def __init__(self) -> None:
        self._scratch: ScratchFolder | None = None

    def has(self, folder: str, hashes: Mapping[str, str]) -> bool:
        """Return whether a folder has exactly these files here too, on a disk that the nodes share."""
        try:
            return all(_sha256(Path(folder) / name) == sha256 for name, sha256 in hashes.items())
        except OSError:
            return False

    def write(self, name: str, piece: np.ndarray) -> str:
        """Append to a file; return the reason of a failure, or an empty string."""
        try:
            if self._scratch is None:
                self._scratch = ScratchFolder("received")
            with (self._scratch.path / Path(name).name).open("ab") as file:
                piece.tofile(file)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def finish(self, hashes: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return the folder, and the names of files that differ from those sent."""
        assert self._scratch is not None
        folder = self._scratch.path
        return str(folder), [name for name, sha in hashes.items() if _sha256(folder / name) != sha]

    def close(self) -> None:
        """Remove the folder."""
        if self._scratch is not None:
            self._scratch.close()


def start_receiver(connection: RayConnection, node: ClusterNode) -> Any:
    """Return Ray's handle of a `PlanReceiver` on a node."""
    actor = connection.ray.remote(num_cpus=0, max_restarts=0)(PlanReceiver)
    return actor.options(scheduling_strategy=on_node(connection.ray, node)).remote()


def send_plan(connection: RayConnection, receiver: Any, node: ClusterNode, plan: Plan, files: list[str]) -> str:
    """Make files of a plan available on a node.

    Parameters
    ----------
    receiver : Any
        Of that node.
    files : list of str
        Names of the segment files that the node needs; the weights are always sent.

    Returns
    -------
    str
        The folder on the node: the plan's own where the node sees it, else a new one.

    Raises
    ------
    ClusterFailed
        Where the node is gone, or has no trisect.
    InvalidPlan
        For files that changed since the plan was made, here or on the way.
    StorageFailed
        Where the node's disk is full.
    """
    ray = connection.ray
    folder = Path(os.path.abspath(plan.folder))
    hashes = {segment.file: segment.sha256 for segment in plan.segments if segment.file in files}
    if plan.weights is not None:
        hashes[plan.weights.file] = plan.weights.sha256
    try:
        hashes = {
            name: sha256 or _sha256(folder / name) for name, sha256 in hashes.items()
        }  # hand-made plans have none
        if ray.get(receiver.has.remote(str(folder), hashes), timeout=_START_TIMEOUT_S):
            return str(folder)
        for name in hashes:
            _send_file(ray, receiver, node, folder / name)
        remote_folder, damaged = ray.get(receiver.finish.remote(hashes))
    except OSError as error:
        raise InvalidPlan(f"a file of the plan cannot be read: {error}", remedy="make the plan again") from error
    except ray.exceptions.GetTimeoutError as error:
        message = f"node {node.name} did not start a process within {_START_TIMEOUT_S:.0f} s"
        raise ClusterFailed(message, remedy="see: ray status") from error
    except ray.exceptions.RayError as error:
        raise node_failure(node.name, error) from error
    if damaged:
        raise InvalidPlan(
            f"{damaged[0]} on node {node.name} differs from the file that the plan was made with",
            remedy="make the plan again",
        )
    return str(remote_folder)


def _send_file(ray: Any, receiver: Any, node: ClusterNode, path: Path) -> None:
    in_flight: deque[Any] = deque()
    with path.open("rb") as file:
        while True:
            piece = np.frombuffer(file.read(_PIECE_BYTES), np.uint8)
            if piece.size or not in_flight:
                in_flight.append(receiver.write.remote(path.name, piece))
            while len(in_flight) > (_PIECES_IN_FLIGHT if piece.size else 0):
                reason = ray.get(in_flight.popleft())
                if reason:
                    raise StorageFailed(f"{path.name} cannot be written on node {node.name}: {reason}")
            if not piece.size:
                return


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
