"""Plans whose only purpose is to be measured: models cut at random, with the summands of each segment's time.

Cost models are learned from such cuts of made-up networks, and judged by such cuts of real models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.costmodel.cost_terms import Term
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_folder import write_json
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.synthetic_feeds import generate_feeds
from trisect.scheduler.problem.problem import Placement
from trisect.scheduler.problem.task_graph import TaskGraph

from ..graph.model_graph import Graph
from ..graph.op_instances import node_terms_of, terms_of, works
from ..problem.device_support import refusals
from ..problem.problem_builder import task_graph
from ..segments.convex_cut import cut
from ..segments.segment_writer import Piece, write_segments


@dataclass(frozen=True)
class TrialPlan:
    """A plan to measure."""

    plan: Plan
    terms: tuple[tuple[Term, ...], ...]
    """Of each segment, in the plan's order."""


class TrialModel:
    """A model that is cut in several ways.

    Parameters
    ----------
    graph : Graph
    devices : sequence of Device
    refused : mapping, optional
        Task and device id -> why it cannot run there; the devices are asked when left out.
    """

    def __init__(
        self, graph: Graph, devices: Sequence[Device], refused: Mapping[tuple[str, str], str] | None = None
    ) -> None:
        self.graph = graph
        self.devices = tuple(devices)
        self._tasks: TaskGraph = task_graph(graph)
        self._refused = refusals(graph, self._tasks, self.devices, Capabilities()) if refused is None else refused
        self._works = works(graph)

    @property
    def flops(self) -> float:
        """Operations of the whole model."""
        return float(sum(data["flops"] for _, data in self.graph.digraph.nodes(data=True)))

    def whole(self, device: Device, folder: Path) -> TrialPlan:
        """All that a device can run on it, the rest elsewhere."""
        return self._plan({task: self._able(task, device.id) for task in self._tasks}, folder)

    def placed(self, placement: Placement, folder: Path) -> TrialPlan:
        """Tasks where they are wanted, or else where they can run."""
        return self._plan({task: self._able(task, placement[task]) for task in self._tasks}, folder)

    def random(self, seed: str, most_cuts: int, folder: Path) -> TrialPlan:
        """The nodes in their order, cut at random places into pieces that change between the devices.

        Parameters
        ----------
        seed : str
        most_cuts : int
            Places to cut at; as many pieces as that and one more, or fewer where a piece only moves what must move.
        folder : Path
            Empty or new.
        """
        rng = random.Random(seed)
        order = list(self._tasks)
        count = min(rng.randint(1, most_cuts), len(order) - 1)
        cuts = set(rng.sample(range(1, len(order)), count)) if count > 0 else set()
        turn = rng.randrange(len(self.devices))
        placement = {}
        for position, task in enumerate(order):
            turn += position in cuts
            placement[task] = self._able(task, self.devices[turn % len(self.devices)].id)
        return self._plan(placement, folder)

    def node_terms(self, plan: Plan) -> list[dict[str, list[Term]]]:
        """Of each segment of a plan, the summands of each node there; those of the border are left out."""
        return [node_terms_of(self.graph, self._works, segment.nodes) for segment in plan.segments]

    def _able(self, task: str, wanted: str) -> str:
        able = [device.id for device in self.devices if (task, device.id) not in self._refused]
        return wanted if wanted in able or not able else able[0]

    def _plan(self, placement: Placement, folder: Path) -> TrialPlan:
        members: dict[str, tuple[str, ...]] = {task: data["nodes"] for task, data in self._tasks.nodes(data=True)}
        pieces = []
        for part in cut(self._tasks, placement):
            inside = {node for task in part.nodes for node in members[task]}
            pieces.append(Piece(part.device, tuple(node for node in self.graph.nodes if node in inside)))
        folder.mkdir(parents=True, exist_ok=True)
        segments, transfers, weights = write_segments(self.graph, pieces, folder)
        nothing = Timeline.of([], source="predicted")
        plan = Plan(
            model=self.graph.path.name, model_sha256=self.graph.sha256, devices=self.devices,
            placement={node: piece.device for piece in pieces for node in piece.nodes}, segments=segments,
            transfers=transfers, inputs=self.graph.inputs, outputs=self.graph.outputs, strategy="trial",
            objective="latency", seed=0, shapes=dict(self.graph.shapes), predicted=nothing, value=0.0, bound=0.0,
            weights=weights,
        )  # fmt: skip
        write_json(plan, folder)
        terms = tuple(tuple(terms_of(self.graph, self._works, segment.nodes)) for segment in segments)
        return TrialPlan(replace(plan, folder=str(folder)), terms)


def trial_feeds(plan: Plan) -> dict[str, np.ndarray]:
    """Feeds of a plan, always the same."""
    whole = onnx.ModelProto()
    for segment in plan.segments:
        part = onnx.load(Path(plan.folder) / segment.file, load_external_data=False).graph
        whole.graph.node.extend(part.node)
        whole.graph.initializer.extend(part.initializer)
    return generate_feeds(whole, plan)
