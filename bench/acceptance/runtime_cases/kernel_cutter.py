"""Cuts a model for one engine where a cut costs least: between kernels, and where few bytes change their layout.

The loss of a cut is modelled at first (bytes that cross, in and out of the engine's own layout), and then measured by
running plans. The model chooses cuts only: all reported figures are measured.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import networkx as nx

from trisect.partitioner.costs.kernel_breakdown import plan_kernels
from trisect.partitioner.costs.trial_plans import TrialModel
from trisect.partitioner.planning.plan_maker import write_plan
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.partitioner.planning.preparation import prepare
from trisect.partitioner.problem.constraints import Constraints
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.profiles.measuring.plan_trial import PlanTiming, PlanTrial, run_trial
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.scheduler.problem.problem import Part
from trisect.scheduler.problem.solution import Proposal

from ..prediction.measurement_rounds import median_trial

CANDIDATES = 16
"""Plans that are run before one is chosen."""
_REPEATS = 3
_SEGMENT_SHARE_MIN = 0.03
"""Minimum time of a segment, as a share of the mean: a cut after the last operator would be none."""
_CALL_S, _LAYOUT_BYTES_PER_S = 1e-4, 4e9
"""Modelled cost of a segment, and bandwidth of layout conversion."""


def _copies(count: int) -> list[Device]:
    """Return copies of OpenVINO's CPU device, with distinct ids."""
    first = find_devices("cpu:openvino")[0]
    return [replace(first, id=f"{first.id}#{index}" if index else first.id) for index in range(count)]


class KernelCutter:
    """Cuts a model into consecutive segments, one on each copy of OpenVINO's CPU device.

    The measured losses of a plan are used for all later plans, whatever their number of segments.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to int
        Sizes of symbolic dimensions.
    segments_max : int
        Maximum number of segments of a plan.
    folder : Path
        Folder for the plans.
    threads : int, optional
        Compute threads of each copy; all if None.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, int], segments_max: int, folder: Path, threads: int | None = None
    ) -> None:  # fmt: skip
        self._devices = _copies(segments_max)
        self._folder = folder
        self._options = LoadOptions(threads=threads)
        self._request = PlanRequest(
            path, tuple(self._devices), "cheapest cuts", "throughput", shapes, Constraints(contiguous=True)
        )
        self._inputs = prepare(self._request, DeviceData(_UnusedCosts()))
        first = self._devices[0]
        self._whole = TrialModel(self._inputs.graph, [first]).whole(first, folder / "whole").plan
        self.feeds = plan_feeds(self._whole)
        """Inputs of a fixed seed."""
        trial = run_trial(self._whole, self.feeds, options=self._options)
        kernels = plan_kernels(self._whole, trial, {}, threads=threads)
        joined = task_graph(self._inputs.graph, together=[kernel.nodes for kernel in kernels])
        took_s = {node: kernel.total_s / len(kernel.nodes) for kernel in kernels for node in kernel.nodes}
        place = {task: index for index, task in enumerate(joined)}
        self._row = list(nx.lexicographical_topological_sort(joined, key=place.__getitem__))
        nodes: list[tuple[str, ...]] = [joined.nodes[task]["nodes"] for task in self._row]
        self._position = {node: index for index, inside in enumerate(nodes) for node in inside}
        self._times_s = [sum(took_s.get(node, 0.0) for node in inside) for inside in nodes]
        self._tensors = _tensors(joined, self._row)
        self._seen_s: dict[tuple[int, int], list[float]] = defaultdict(list)
        self._extra_s: dict[int, float] = {}

    def best(self, segments: int) -> Plan:
        """Return the plan with the least loss among several measured plans."""
        plans: dict[tuple[int, ...], Plan] = {}
        for _ in range(CANDIDATES):
            ends = tuple(self.cheapest(segments))
            if ends in plans:
                break
            plans[ends] = self.plan(ends)
            self.run(ends, plans[ends])
        return plans[min(plans, key=lambda ends: sum(self._lost_s(*part) for part in self._parts(ends)))]

    def most_balanced(self) -> Plan:
        """Return the plan of two segments whose longer one is fastest, among several measured plans."""
        plans: dict[int, tuple[float, Plan]] = {}
        for _ in range(CANDIDATES):
            end = self.balanced()
            if end in plans:
                break
            plan = self.plan([end])
            plans[end] = (max(self.run([end], plan).segments_s), plan)
        return min(plans.values(), key=lambda pair: pair[0])[1]

    def cheapest(self, count: int) -> list[int]:
        """Return the cuts into this number of segments with the least loss, none of them nearly empty."""
        last = len(self._row) - 1
        min_s = _SEGMENT_SHARE_MIN * sum(self._times_s) / count
        best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
        for number in range(count):
            following: dict[int, tuple[float, list[int]]] = {}
            for end in [last] if number == count - 1 else range(last):
                candidates = [
                    (lost_s + self._lost_s(start, end), [*cuts, end])
                    for start, (lost_s, cuts) in best.items()
                    if start < end and self._compute_s(start, end) >= min_s
                ]
                if candidates:
                    following[end] = min(candidates)
            best = following
        return best[last][1][:-1]

    def balanced(self) -> int:
        """Return the cut into two with the shortest longer part."""
        last = len(self._row) - 1

        def longer_s(end: int) -> float:
            return max(self._compute_s(s, e) + self._lost_s(s, e) for s, e in ((-1, end), (end, last)))

        return min(range(last), key=longer_s)

    def run(self, ends: Sequence[int], plan: Plan) -> PlanTiming:
        """Run the plan of these cuts interleaved with the whole model, and record the losses of the cuts.

        Returns
        -------
        PlanTiming
            Scaled to the first time of the whole model, since a machine changes its speed.
        """
        feeds, options = self.feeds, self._options
        with PlanTrial(plan, feeds, options) as split, PlanTrial(self._whole, feeds, options) as alone:
            runs = [(split.run(), alone.run()) for _ in range(_REPEATS)]
        speed = sum(self._times_s) / median_trial([whole for _, whole in runs]).segments_s[0]
        trial = median_trial([part for part, _ in runs])
        trial = replace(trial, latency_s=trial.latency_s * speed, segments_s=tuple(t * speed for t in trial.segments_s))
        for (start, end), time_s in zip(self._parts(ends), trial.segments_s, strict=True):
            self._record(start, end, time_s)
        return trial

    def plan(self, ends: Sequence[int]) -> Plan:
        """Return the plan with cuts after these positions."""
        segment_of = {
            task: sum(end < self._position[data["nodes"][0]] for end in ends)
            for task, data in self._inputs.tasks.nodes(data=True)
        }
        placement = {task: self._devices[index].id for task, index in segment_of.items()}
        parts = tuple(
            Part(device.id, tuple(task for task in segment_of if segment_of[task] == index))
            for index, device in enumerate(self._devices[: len(ends) + 1])
        )
        proposal = Proposal(placement, parts=parts)
        folder = self._folder / f"cut after {','.join(map(str, ends))}"
        return write_plan(self._inputs, proposal, self._request, folder)

    def _parts(self, ends: Sequence[int]) -> list[tuple[int, int]]:
        """Return the position before each part, and that of its end."""
        return list(pairwise((-1, *ends, len(self._row) - 1)))

    def _compute_s(self, start: int, end: int) -> float:
        return sum(self._times_s[start + 1 : end + 1])

    def _lost_s(self, start: int, end: int) -> float:
        """Return the loss of a part between two positions by being a segment of its own."""
        if (start, end) in self._seen_s:
            return statistics.median(self._seen_s[start, end])
        lost_s = _CALL_S
        for index, (producer, readers, size_bytes) in enumerate(self._tensors):
            if producer <= start and any(start < reader <= end for reader in readers):
                lost_s += size_bytes / _LAYOUT_BYTES_PER_S + self._extra_s.get(index, 0.0)
            elif start < producer <= end and any(reader > end for reader in readers):
                lost_s += size_bytes / _LAYOUT_BYTES_PER_S
        return lost_s

    def _record(self, start: int, end: int, time_s: float) -> None:
        """Record the measured loss of a part; an excess over the model is attributed to the tensors that enter it."""
        lost_s = time_s - self._compute_s(start, end)
        entering = [
            index for index, (producer, readers, _) in enumerate(self._tensors)
            if producer <= start and any(start < reader <= end for reader in readers)
        ]  # fmt: skip
        excess_s = (lost_s - self._lost_s(start, end)) / max(1, len(entering))
        for index in entering:
            self._extra_s[index] = max(0.0, self._extra_s.get(index, 0.0) + excess_s)
        self._seen_s[start, end].append(lost_s)


class _UnusedCosts(Costs):
    """Costs of a problem that is not solved by them."""

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return 1e-6

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        return LinkCost()

    def call_overhead_s(self, device_id: str) -> float:
        return 0.0


def _tensors(graph: nx.DiGraph[str], row: Sequence[str]) -> list[tuple[int, list[int], float]]:
    """Return each tensor's producing position, reading positions, and bytes."""
    position = {task: index for index, task in enumerate(row)}
    readers: dict[tuple[int, str], list[int]] = {}
    sizes: dict[tuple[int, str], float] = {}
    for source, target, data in graph.edges(data=True):
        for tensor, size_bytes in data["tensors"].items():
            readers.setdefault((position[source], tensor), []).append(position[target])
            sizes[position[source], tensor] = size_bytes
    return [(producer, positions, sizes[producer, tensor]) for (producer, tensor), positions in readers.items()]
