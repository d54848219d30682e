"""Plans made to be measured: models cut at random, with the cost terms of each segment.

Cost models are fitted to such cuts of synthetic networks, and evaluated on such cuts of real models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.scheduler.problem.problem import Placement
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from ..problem.device_support import refusals
from ..problem.task_grouping import task_graph
from ..segments.convex_cut import cut
from ..segments.pieces import Piece, pieces_of_parts
from ..segments.plan_of_pieces import plan_of_pieces
from .model_costs import nhwc_tensors, node_terms_of, segment_terms_of


@dataclass(frozen=True)
class TrialPlan:
    """A plan to measure."""

    plan: Plan
    terms: tuple[tuple[CostTerm, ...], ...]
    """Cost terms of each segment, in the plan's order."""


class TrialModel:
    """A model that is cut in several ways to be measured.

    Parameters
    ----------
    refused : mapping, optional
        Task and device id -> why the task cannot run there; the devices are asked when left out.
    tasks : TaskGraph, optional
        Groups of nodes that stay together.
    """

    def __init__(
        self,
        graph: Graph,
        devices: Sequence[Device],
        refused: Mapping[tuple[str, str], str] | None = None,
        tasks: TaskGraph | None = None,
    ) -> None:
        self.graph = graph
        self.devices = tuple(devices)
        self._tasks: TaskGraph = task_graph(graph) if tasks is None else tasks
        self._refused = refusals(graph, self._tasks, self.devices, Capabilities()) if refused is None else refused

    @property
    def flops(self) -> float:
        """Operations of the whole model."""
        return float(sum(data["flops"] for _, data in self.graph.digraph.nodes(data=True)))

    def whole(self, device: Device, folder: Path) -> TrialPlan:
        """Make a plan with all tasks on a device, except for those that it cannot run."""
        return self.placed(dict.fromkeys(self._tasks, device.id), folder)

    def placed(self, placement: Placement, folder: Path) -> TrialPlan:
        """Make a plan of a placement; a task that its device cannot run goes to the first that can."""
        pieces = self.pieces(placement)
        plan = plan_of_pieces(self.graph, pieces, self.devices, folder, strategy="trial")
        terms = [segment_terms_of(self.graph, segment.nodes, nhwc_tensors(segment)) for segment in plan.segments]
        return TrialPlan(plan, tuple(terms))

    def pieces(self, placement: Placement) -> list[Piece]:
        """Return the segments of the plan that `placed` makes."""
        supported = {task: self._supporting_device(task, placement[task]) for task in self._tasks}
        return pieces_of_parts(self.graph, self._tasks, cut(self._tasks, supported))

    def random(self, seed: str, cuts_max: int, folder: Path) -> TrialPlan:
        """Make a plan of a random placement; parameters of `random_placement`.

        Parameters
        ----------
        folder : Path
            Empty or new.
        """
        return self.placed(self.random_placement(seed, cuts_max), folder)

    def random_placement(self, seed: str, cuts_max: int) -> Placement:
        """Cut the nodes, in their order, at random places, and alternate between the devices.

        Parameters
        ----------
        cuts_max : int
            Maximum number of cuts; fewer segments result where a segment holds nothing that has to run.
        """
        rng = random.Random(seed)
        order = list(self._tasks)
        count = min(rng.randint(1, cuts_max), len(order) - 1)
        cuts = set(rng.sample(range(1, len(order)), count)) if count > 0 else set()
        number = rng.randrange(len(self.devices))
        placement = {}
        for position, task in enumerate(order):
            number += position in cuts
            placement[task] = self.devices[number % len(self.devices)].id
        return placement

    def node_terms(self, plan: Plan) -> list[dict[str, list[CostTerm]]]:
        """Return the cost terms of each node, for each segment of a plan; those of the boundary are left out."""
        return [node_terms_of(self.graph, segment.nodes) for segment in plan.segments]

    def _supporting_device(self, task: str, wanted: str) -> str:
        able = [device.id for device in self.devices if (task, device.id) not in self._refused]
        return wanted if wanted in able or not able else able[0]
