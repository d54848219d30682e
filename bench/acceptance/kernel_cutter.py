"""Cuts a model for one engine where a cut costs least: between its kernels, and where few bytes change their layout.

What a cut loses is modelled at first (bytes that cross, in and out of the engine's own layout), and then known of the
plans that ran. It chooses cuts only: every figure that is reported is measured.
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
from trisect.profiles.measuring.plan_trial import LoadedTrial, Trial, run_trial
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_feeds import plan_feeds
from trisect.scheduler.problem.problem import Part
from trisect.scheduler.problem.solution import Proposal

from .measurement_rounds import median_trial
from .runtime_overhead import device

CANDIDATES = 16
"""Plans that are run before one is chosen."""
_TURNS = 3
_LEAST_SHARE = 0.03
"""Of the mean segment's time, what each must take at least: a cut behind the last operator would be none."""
_CALL_S, _LAYOUT_BYTES_PER_S = 1e-4, 4e9
"""What a segment more costs, and how fast tensors are brought into an engine's layout: these choose cuts only."""


def _copies(count: int) -> list[Device]:
    """OpenVINO's CPU device so many times, under names of its own."""
    first = device("cpu:openvino")
    return [replace(first, id=f"{first.id}#{index}" if index else first.id) for index in range(count)]


class Cutter:
    """Cuts a model into segments in a row, one on each copy of OpenVINO's CPU device.

    What a plan lost is known of all plans after it, whatever the number of their segments.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to int
        Sizes of its symbolic dimensions.
    most : int
        Segments that a plan may have.
    folder : Path
        Where its plans are written.
    threads : int, optional
        Of each copy; all when left out.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, int], most: int, folder: Path, threads: int | None = None
    ) -> None:  # fmt: skip
        self._devices = _copies(most)
        self._folder = folder
        self._options = LoadOptions(threads=threads)
        self._request = PlanRequest(
            path, tuple(self._devices), "cheapest cuts", "throughput", shapes, Constraints(contiguous=True)
        )
        self._inputs = prepare(self._request, DeviceData(_Nothing()))
        first = self._devices[0]
        self._whole = TrialModel(self._inputs.graph, [first]).whole(first, folder / "whole").plan
        self.feeds = plan_feeds(self._whole)
        """An input that does not vary between runs."""
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
        """Of several plans that ran the one whose segments lose least, as far as all that ran can tell."""
        found: dict[tuple[int, ...], Plan] = {}
        for _ in range(CANDIDATES):
            ends = tuple(self.cheapest(segments))
            if ends in found:
                break
            found[ends] = self.plan(ends)
            self.run(ends, found[ends])
        return found[min(found, key=lambda ends: sum(self._lost_s(*part) for part in self._parts(ends)))]

    def most_balanced(self) -> Plan:
        """Of several plans of two segments that ran the one whose longer segment took the least time."""
        found: dict[int, tuple[float, Plan]] = {}
        for _ in range(CANDIDATES):
            end = self.balanced()
            if end in found:
                break
            plan = self.plan([end])
            found[end] = (max(self.run([end], plan).segments_s), plan)
        return min(found.values(), key=lambda pair: pair[0])[1]

    def cheapest(self, count: int) -> list[int]:
        """Positions behind which to cut into so many, so that the least is lost and no segment is idle for long."""
        last = len(self._row) - 1
        least_s = _LEAST_SHARE * sum(self._times_s) / count
        best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
        for number in range(count):
            following: dict[int, tuple[float, list[int]]] = {}
            for end in [last] if number == count - 1 else range(last):
                before = [
                    (lost_s + self._lost_s(start, end), [*found, end])
                    for start, (lost_s, found) in best.items()
                    if start < end and self._work_s(start, end) >= least_s
                ]
                if before:
                    following[end] = min(before)
            best = following
        return best[last][1][:-1]

    def balanced(self) -> int:
        """The position behind which to cut in two, so that the longer part is the shortest."""
        last = len(self._row) - 1

        def longer_s(end: int) -> float:
            return max(self._work_s(s, e) + self._lost_s(s, e) for s, e in ((-1, end), (end, last)))

        return min(range(last), key=longer_s)

    def run(self, ends: Sequence[int], plan: Plan) -> Trial:
        """Run the plan of these cuts in turns with the whole, and learn from it what they lose.

        Returns
        -------
        Trial
            As if the whole had taken what it took at first: a machine changes its pace.
        """
        feeds, options = self.feeds, self._options
        with LoadedTrial(plan, feeds, options) as split, LoadedTrial(self._whole, feeds, options) as alone:
            turns = [(split.run(), alone.run()) for _ in range(_TURNS)]
        pace = sum(self._times_s) / median_trial([whole for _, whole in turns]).segments_s[0]
        trial = median_trial([part for part, _ in turns])
        trial = replace(trial, latency_s=trial.latency_s * pace, segments_s=tuple(t * pace for t in trial.segments_s))
        for (start, end), time_s in zip(self._parts(ends), trial.segments_s, strict=True):
            self._learn(start, end, time_s)
        return trial

    def plan(self, ends: Sequence[int]) -> Plan:
        """The plan of cuts behind these positions."""
        home = {
            task: sum(end < self._position[data["nodes"][0]] for end in ends)
            for task, data in self._inputs.tasks.nodes(data=True)
        }
        placement = {task: self._devices[index].id for task, index in home.items()}
        parts = tuple(
            Part(device.id, tuple(task for task in home if home[task] == index))
            for index, device in enumerate(self._devices[: len(ends) + 1])
        )
        proposal = Proposal(placement, parts=parts)
        folder = self._folder / f"cut behind {','.join(map(str, ends))}"
        return write_plan(self._inputs, proposal, self._request, folder)

    def _parts(self, ends: Sequence[int]) -> list[tuple[int, int]]:
        """Behind which position each part begins, and where it ends."""
        return list(pairwise((-1, *ends, len(self._row) - 1)))

    def _work_s(self, start: int, end: int) -> float:
        return sum(self._times_s[start + 1 : end + 1])

    def _lost_s(self, start: int, end: int) -> float:
        """What the part behind one position and up to another loses by being one of its own."""
        if (start, end) in self._seen_s:
            return statistics.median(self._seen_s[start, end])
        lost_s = _CALL_S
        for index, (made, read, size_bytes) in enumerate(self._tensors):
            if made <= start and any(start < place <= end for place in read):
                lost_s += size_bytes / _LAYOUT_BYTES_PER_S + self._extra_s.get(index, 0.0)
            elif start < made <= end and any(place > end for place in read):
                lost_s += size_bytes / _LAYOUT_BYTES_PER_S
        return lost_s

    def _learn(self, start: int, end: int, time_s: float) -> None:
        """What a part lost when it ran; more than was thought is laid to the tensors that enter it."""
        lost_s = time_s - self._work_s(start, end)
        entering = [
            index for index, (made, read, _) in enumerate(self._tensors)
            if made <= start and any(start < place <= end for place in read)
        ]  # fmt: skip
        more_s = (lost_s - self._lost_s(start, end)) / max(1, len(entering))
        for index in entering:
            self._extra_s[index] = max(0.0, self._extra_s.get(index, 0.0) + more_s)
        self._seen_s[start, end].append(lost_s)


class _Nothing(Costs):
    """Costs of devices that are not chosen among."""

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return 1e-6

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        return LinkCost()

    def call_overhead_s(self, device_id: str) -> float:
        return 0.0


def _tensors(graph: nx.DiGraph[str], row: Sequence[str]) -> list[tuple[int, list[int], float]]:
    """Of each tensor the position where it is made, those where it is read, and its bytes."""
    place = {task: index for index, task in enumerate(row)}
    read: dict[tuple[int, str], list[int]] = {}
    sizes: dict[tuple[int, str], float] = {}
    for source, target, data in graph.edges(data=True):
        for tensor, size_bytes in data["tensors"].items():
            read.setdefault((place[source], tensor), []).append(place[target])
            sizes[place[source], tensor] = size_bytes
    return [(made, places, sizes[made, tensor]) for (made, tensor), places in read.items()]
