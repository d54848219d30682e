"""A plan: a placement cut into runnable segments, as plain data and as a folder on disk."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..device import Device
from ..errors import InvalidInput, StorageFailed
from ..tensors.tensor_spec import TensorSpec
from .check_result import PlanCheck
from .plan_comparison import PlanComparison
from .plan_folder import copy_files, read_json, write_json
from .plan_parts import NARROW_NUMBERS, PlacedTask, Segment, Transfer, Weights
from .timeline import Schedule


@dataclass(frozen=True)
class Plan:
    """The segments of a model with their devices, the transfers between them, and the predicted cost."""

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
    """The method that proved `bound`: ``critical path``, ``load``, ``CP-SAT``, ..."""
    interval: tuple[float, float] | None = None
    """Contains the measured objective with 90 % probability, in the unit of `value`; None where that is not known."""
    tasks: tuple[PlacedTask, ...] = ()
    """The placement decisions with their reasons; nodes in none of them are constants, or were placed by hand."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the plan was made."""
    constraints: Mapping[str, Any] = field(default_factory=dict)
    """The constraints of the request, as `trisect.partitioner.problem.constraints` reads them."""
    time_limit_s: float | None = None
    """The strategy's time limit; None = its default."""
    machine: str = ""
    """The published machine that the plan is for; empty = the machine where it was made."""
    weights: Weights | None = None
    """None where all weights are small enough to be stored in the segment files."""
    fixed_inputs: tuple[str, ...] = ()
    """Inputs that the model declares with a default (an initialiser), which is a constant of the plan."""
    comparison: PlanComparison | None = None
    """The plan beside each device alone; None for the objectives energy and memory, and for plans made by hand."""
    folder: str = ""
    """Where the segment files are; not saved."""
    verified: PlanCheck | None = None
    """What a run beside the whole model showed when it was made; not saved."""

    @property
    def gap(self) -> float:
        """Upper bound of the relative distance of `value` from the optimum: value/bound - 1."""
        if self.value == self.bound:
            return 0.0
        return self.value / self.bound - 1 if self.bound > 0 else float("inf")

    @property
    def used_devices(self) -> list[Device]:
        """Devices that run a segment."""
        used = {segment.device for segment in self.segments}
        return [device for device in self.devices if device.id in used]

    @property
    def assumes_narrow_numbers(self) -> bool:
        """Whether it was made with the assumption that no number needs more than 32 bits."""
        assumptions = self.constraints.get("assume")
        return isinstance(assumptions, list | tuple) and NARROW_NUMBERS in assumptions

    def explain(self, node: str) -> str:
        """Return the reason for a node's placement.

        Raises
        ------
        InvalidInput
            When the plan has no such node.
        """
        task = self.task_of(node)
        if task is not None:
            return task.reason
        if self.tasks:
            return "constant at these shapes: each segment that needs it contains it"
        return f"{self.placement[node]}: placed by hand"

    def task_of(self, node: str) -> PlacedTask | None:
        """Return the task that contains a node, with the costs of other devices; None where no reasons were recorded.

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
        """Write the plan to a folder: ``plan.json``, one ONNX file per segment, one weights file.

        Parameters
        ----------
        folder : str or Path
            A new folder, or that of a plan, which is replaced atomically.

        Returns
        -------
        Plan
            The same plan in its new folder.

        Raises
        ------
        StorageFailed
            When the folder cannot be written, or contains something else; it is left unchanged then.
        """
        target = Path(folder)
        if not self.folder:
            raise StorageFailed("this plan has no segment files to save", remedy="make it with trisect.split")
        if target.exists() and target.resolve() == Path(self.folder).resolve():
            write_json(self, target)
            return self
        copy_files(self, Path(self.folder), target)
        return replace(self, folder=os.path.abspath(target))

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read a plan folder, and check that it is complete and unchanged.

        Raises
        ------
        InvalidPlan
            When it is missing, damaged, tampered with, or of a newer version.
        """
        return replace(read_json(Path(folder), cls), folder=os.path.abspath(folder), verified=None)
