"""The Plan: a placement made runnable, as plain data and as a folder on disk."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..device import Device
from ..errors import InvalidInput
from ..tensors.tensor_spec import TensorSpec
from .timeline import Schedule


@dataclass(frozen=True)
class Segment:
    """A convex part of the model that runs on one device, as one ONNX file."""

    index: int
    device: str
    nodes: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: str
    """File name inside the plan folder."""
    sha256: str = ""


@dataclass(frozen=True)
class Transfer:
    """A tensor that one segment makes and another needs."""

    tensor: str
    source: int
    """Segment index; -1 = the caller's feeds."""
    target: int
    """Segment index; -1 = the caller's outputs."""
    size_bytes: int


@dataclass(frozen=True)
class Weights:
    """The one file of a plan folder that holds the weights of all segments."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Option:
    """What a device would mean for a task, its neighbours staying where they are."""

    device: str
    time_s: float | None
    """None where it cannot or must not run there."""
    copy_s: float = 0.0
    """Of all that crosses to and from it: transfers, and bringing tensors out of the engines' own layouts."""
    call_s: float = 0.0
    """Of a call of its own, where no neighbour is on that device."""
    why_not: str = ""
    """Why it cannot or must not run there."""


@dataclass(frozen=True)
class PlacedTask:
    """Nodes that are placed together, and why where they are."""

    nodes: tuple[str, ...]
    device: str
    op_type: str
    """Of the node that does most."""
    op_class: str
    reason: str
    options: tuple[Option, ...] = ()
    """One for each device."""


@dataclass(frozen=True)
class Plan:
    """Which segment of the model runs where, what moves between them, and what that should cost."""

    model: str
    """File name of the model that was split."""
    model_sha256: str
    devices: tuple[Device, ...]
    placement: Mapping[str, str]
    """Node name -> device id."""
    segments: tuple[Segment, ...]
    transfers: tuple[Transfer, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    strategy: str
    objective: str
    seed: int
    shapes: Mapping[str, int]
    predicted: Schedule
    value: float
    bound: float
    bound_by: str = ""
    """How `bound` is known: ``critical path``, ``load``, ``CP-SAT``, ..."""
    tasks: tuple[PlacedTask, ...] = ()
    """Why each node is where it is; nodes in none of them are constants, or were placed by hand."""
    notes: tuple[str, ...] = ()
    """What the maker of the plan came across and the user should know."""
    constraints: Mapping[str, Any] = field(default_factory=dict)
    """What was demanded, as `trisect.partitioner.problem.constraints` reads it."""
    time_limit_s: float | None = None
    """How long the strategy might search; None = as long as it usually does."""
    machine: str = ""
    """The published machine that it is for; empty = the one where it was made."""
    weights: Weights | None = None
    """None where the segments hold their few weights themselves."""
    folder: str = ""
    """Where the segment files are; not part of the saved plan."""

    @property
    def gap(self) -> float:
        """How far `value` may be from the optimum: value/bound - 1."""
        if self.value == self.bound:
            return 0.0
        return self.value / self.bound - 1 if self.bound > 0 else float("inf")

    def explain(self, node: str) -> str:
        """Why a node is where it is.

        Raises
        ------
        InvalidInput
            When the plan has no such node.
        """
        task = self.task_of(node)
        if task is not None:
            return task.reason
        if self.tasks:
            return "constant at these shapes: each segment that needs it holds it"
        return f"{self.placement[node]}: placed by hand"

    def task_of(self, node: str) -> PlacedTask | None:
        """The task that a node belongs to, with what else was possible; None for a constant, or where nobody says.

        Raises
        ------
        InvalidInput
            When the plan has no such node.
        """
        if node not in self.placement:
            near = difflib.get_close_matches(node, self.placement, n=1)
            raise InvalidInput(
                f"no node {node!r} in this plan", remedy=f"did you mean {near[0]!r}?" if near else "see plan.placement"
            )
        return next((task for task in self.tasks if node in task.nodes), None)

    def save(self, folder: str | Path) -> Plan:
        """Write the plan into a folder: ``plan.json``, one ONNX file per segment, one file of weights.

        Parameters
        ----------
        folder : str or Path
            New, or that of a plan, which is then replaced as a whole.

        Returns
        -------
        Plan
            The same, in its new place.

        Raises
        ------
        StorageFailed
            When it cannot be written, or the folder holds something else; what was there stays as it was.
        """
        from .plan_folder import save

        return save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read a plan folder, and check that it is whole and as it was written.

        Raises
        ------
        InvalidPlan
            When it is missing, damaged, tampered with, or of a newer version.
        """
        from .plan_folder import load

        return load(Path(folder))
