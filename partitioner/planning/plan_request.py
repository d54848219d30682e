"""What to plan, and what is known of the devices: the inputs of `make_plan` and `make_pareto_plans`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import get_args

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.stored.segment_store import MeasuredSegment
from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.search_time_limit import check_time_limit

from ..problem.constraints import Constraints
from ..strategies import TIME_LIMIT_S

SegmentRecorder = Callable[[Mapping[str, Sequence[MeasuredSegment]]], None]
"""Called with the measured segments of each device (by its id)."""


@dataclass(frozen=True)
class PlanRequest:
    """What to plan: a model, devices, and how its nodes are to be placed.

    Raises
    ------
    InfeasibleProblem
        For an unknown objective.
    InvalidInput
        For a time limit that is not a positive number.
    """

    model: Path
    """An ONNX file."""
    devices: tuple[Device, ...]
    strategy: str = "auto"
    """Name of a strategy, with an argument behind a colon where it takes one (``single:cpu:ort``)."""
    objective: Objective = "latency"
    shapes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the symbolic dimensions of the inputs, by name or as ``input.axis``."""
    constraints: Constraints = field(default_factory=Constraints)
    time_limit_s: float | None = None
    """Search time of strategies that search; the strategy's default where None. Recorded in the plan."""
    seed: int = 0
    """Random seed of stochastic strategies. Recorded in the plan."""
    refine: int = 0
    """Number of refinement iterations: run the plan, correct the costs by its measured segments, plan again."""
    measure: bool = False
    """Whether the strategy ``auto`` runs candidates where it can, and chooses the one that is fastest."""
    budget_s: float | None = None
    """Time for that; a default where None."""
    machine: str = ""
    """Name of the reference machine that the costs are of; recorded in the plan."""
    verify: bool = False
    """Whether to run the final plan beside the whole model before it is published."""
    tolerance: float | None = None
    """Tolerance of that comparison; by default of the model."""
    absent: tuple[Device, ...] = ()
    """Devices that constraints may name though they are not available any more."""

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise InfeasibleProblem(
                f"unknown objective {self.objective!r}", remedy=f"choose one of {', '.join(get_args(Objective))}"
            )
        check_time_limit(self.time_limit_s)
        if self.budget_s is not None and not 0 < self.budget_s < inf:
            raise InvalidInput(
                f"invalid time budget {self.budget_s!r}: expected a positive number of seconds", remedy="correct it"
            )
        if self.tolerance is not None and not 0 <= self.tolerance < inf:
            raise InvalidInput(f"the tolerance is {self.tolerance!r}", remedy="give a number of 0 or more")

    @property
    def search_time_s(self) -> float:
        """Search time of strategies that search, in seconds."""
        return self.time_limit_s or TIME_LIMIT_S


@dataclass(frozen=True)
class DeviceData:
    """What planning knows of the devices."""

    costs: Costs
    """Times of operators, transfers and calls."""
    power_w: Mapping[str, float] = field(default_factory=dict)
    """Device id -> power draw under load in watts, where known; the objective ``energy`` needs it."""
    capabilities: Capabilities | None = None
    """Whether devices support an operator; where None, they support all that has a cost."""
    calibrations: Path | None = None
    """Cache file of measured runs of whole models; where None, measured costs are not calibrated on the model."""
    record: SegmentRecorder | None = None
    """Called with the measured segments of the plans that run."""
    probes_s: Mapping[str, float] = field(default_factory=dict)
    """Device id -> seconds of its probe at present: how fast it is, compared with earlier measurements."""
    notes: tuple[str, ...] = ()
    """What a plan has to say about the costs."""
