"""A plan's files on a node that does not share its folder: sent in pieces, checked on arrival, removed at the end.

One depot serves all devices of a node, so that weights travel there once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClusterFailed, InvalidPlan, StorageFailed
from ..plans.plan import Plan
from .cluster_nodes import Node, on_node, unanswered
from .ray_connection import Connection
from .scratch_folder import scratch_folder

_PIECE_BYTES = 16 << 20
_PIECES_AHEAD = 2
_START_S = 60.0
_PREFIX = "trisect-plan-here-"


class Depot:
    """On the node: receives files into a folder that goes with this process; used as a Ray actor."""

    def __init__(self) -> None:
        self._scratch = ExitStack()
        self._folder: Path | None = None

    def has(self, folder: str, hashes: Mapping[str, str]) -> bool:
        """Whether these very files lie in that folder here too: on a disk that the nodes share."""
        try:
            return all(_sha256(Path(folder) / name) == sha256 for name, sha256 in hashes.items())
        except OSError:
            return False

    def write(self, name: str, piece: np.ndarray) -> str:
        """Add to a file; the reason why not, or nothing."""
        try:
            if self._folder is None:
                base = Path(tempfile.gettempdir())
                self._folder = self._scratch.enter_context(scratch_folder(base, _PREFIX))
            with (self._folder / Path(name).name).open("ab") as file:
                piece.tofile(file)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def finish(self, hashes: Mapping[str, str]) -> tuple[str, list[str]]:
        """The folder, and the files that did not arrive as they were sent."""
        assert self._folder is not None
        return str(self._folder), [name for name, sha in hashes.items() if _sha256(self._folder / name) != sha]

    def close(self) -> None:
        """Remove the folder."""
        self._scratch.close()


def open_depot(connection: Connection, node: Node) -> Any:
    """A depot on a node: Ray's handle of it."""
    actor = connection.ray.remote(num_cpus=0, max_restarts=0)(Depot)
    return actor.options(scheduling_strategy=on_node(connection.ray, node)).remote()


def bring(connection: Connection, depot: Any, node: Node, plan: Plan, files: list[str]) -> str:
    """Have the plan's files on a node.

    Parameters
    ----------
    connection : Connection
    depot : Any
        Of that node.
    node : Node
    plan : Plan
    files : list of str
        Names of the segments' files that the node needs; weights come along.

    Returns
    -------
    str
        The folder there: the plan's own where the node sees it, else a new one.

    Raises
    ------
    ClusterFailed
        Where the node is gone, or has no trisect.
    InvalidPlan
        For files that are not as when the plan was made, here or on arrival.
    StorageFailed
        Where the node's disk is full.
    """
    ray = connection.ray
    folder = Path(os.path.abspath(plan.folder))
    hashes = {segment.file: segment.sha256 for segment in plan.segments if segment.file in files}
    if plan.weights is not None:
        hashes[plan.weights.file] = plan.weights.sha256
    try:
        hashes = {name: sha256 or _sha256(folder / name) for name, sha256 in hashes.items()}  # by hand: without hashes
        if ray.get(depot.has.remote(str(folder), hashes), timeout=_START_S):
            return str(folder)
        for name in hashes:
            _send(ray, depot, node, folder / name)
        there, damaged = ray.get(depot.finish.remote(hashes))
    except OSError as error:
        raise InvalidPlan(f"a file of the plan cannot be read: {error}", remedy="make the plan again") from error
    except ray.exceptions.GetTimeoutError as error:
        message = f"node {node.name} did not start a process within {_START_S:.0f} s"
        raise ClusterFailed(message, remedy="see: ray status") from error
    except ray.exceptions.RayError as error:
        raise unanswered(node.name, error) from error
    if damaged:
        raise InvalidPlan(
            f"{damaged[0]} did not arrive on node {node.name} as it was when the plan was made",
            remedy="make the plan again",
        )
    return str(there)


def _send(ray: Any, depot: Any, node: Node, path: Path) -> None:
    flying: deque[Any] = deque()
    with path.open("rb") as file:
        while True:
            piece = np.frombuffer(file.read(_PIECE_BYTES), np.uint8)
            if piece.size or not flying:
                flying.append(depot.write.remote(path.name, piece))
            while len(flying) > (_PIECES_AHEAD if piece.size else 0):
                refused = ray.get(flying.popleft())
                if refused:
                    raise StorageFailed(f"{path.name} cannot be written on node {node.name}: {refused}")
            if not piece.size:
                return


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
