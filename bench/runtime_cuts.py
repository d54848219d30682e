"""Cases about cuts: what a split of a real model over copies of one engine costs, and gains, beside OpenVINO's HETERO.

All copies compute alike, so that what is measured is the splitting. HETERO gets the same cuts: the CPU plugin is
registered once more under another name, and each operator told which of the two is to run it.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import openvino
from openvino.passes import ConstantFolding, Manager

from trisect.partitioner.anatomy import plan_kernels
from trisect.partitioner.graph import Graph
from trisect.partitioner.planning import write_plan
from trisect.partitioner.preparing import prepare
from trisect.partitioner.problem import task_graph
from trisect.partitioner.trialplans import TrialModel, trial_feeds
from trisect.profiles.features import OpFeatures
from trisect.profiles.trials import OpenTrial, Trial, run_trial
from trisect.runtime.devices import Device
from trisect.runtime.engines._common import signature
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.kernels import Kernel
from trisect.runtime.plan import Plan
from trisect.runtime.session import Session
from trisect.scheduler.problem import Part
from trisect.scheduler.solution import Proposal

from .rounds import median_trial
from .runtime import Measured, device, image, in_turns, model_in, ratio, workspace
from .runtime_calls import whole

_MODEL = "ch_PP-OCRv4_det_infer.onnx"
_SHAPE = (1, 3, 640, 640)
_BARS = {1: 1.08, 3: 1.15, 7: 1.2}
_SECOND = "NPU_CPU"
_ITEMS, _WINDOW = 24, 4
_LEAST_SHARE = 0.03
"""Of the mean segment's time, what each must take at least: a cut behind the last operator would be none."""
_CANDIDATES, _TURNS = 8, 3
_CALL_S, _LAYOUT_BYTES_PER_S = 1e-4, 4e9
"""What a segment more costs, and how fast tensors are brought into an engine's layout: these choose cuts only."""


def cuts(models: Path) -> Iterator[Measured]:
    """The detector of rapidocr in 2, 4 and 8 segments on one engine, against the whole, and against HETERO."""
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    for count, promised in _BARS.items():
        with workspace() as folder:
            cutter = _Cutter(path, count + 1)
            plan = cutter.best(Path(folder), feeds)
            hetero = _hetero(path, plan, threads=None)
            with Session(plan) as split, Session(whole(path, "cpu:openvino"), options=_bound(path)) as alone:
                _same(split.run(feeds), alone.run(feeds))
                calls: dict[str, Callable[[], Any]] = {
                    "whole": lambda: alone.run(feeds),
                    "split": lambda: split.run(feeds),
                    "hetero": lambda: hetero.infer(feeds, share_inputs=True),  # noqa: B023
                }
                times = in_turns(calls, 12)
        detail = {f"{key}_ms": statistics.median(found) * 1e3 for key, found in times.items()}
        detail["segments"] = float(len(plan.segments))
        detail["crossing_mb"] = sum(move.size_bytes for move in plan.transfers if move.source >= 0 <= move.target) / 1e6
        what = f"rapidocr det in {len(plan.segments)} segments"
        yield Measured(
            "cuts", f"{what}, against whole", ratio(times["split"], times["whole"]), "x", promised, True, detail
        )
        yield Measured("cuts", f"{what}, against HETERO", ratio(times["split"], times["hetero"]), "x", 1.0, True)


def pinned(models: Path) -> Iterator[Measured]:
    """A balanced split over two processes of one core each, against one such process with all of the model."""
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    one = LoadOptions(threads=1)
    with workspace() as folder:
        plan = _balanced(path, Path(folder), feeds, one)
        hetero = openvino.AsyncInferQueue(_hetero(path, plan, threads=1).get_compiled_model(), _WINDOW)
        alone_on_one = Session(whole(path, "cpu:openvino"), "processes", _bound(path, threads=1))
        with Session(plan, "processes", one) as split, alone_on_one as alone:
            calls = {
                "split": lambda: [None for _ in split.stream(itertools.repeat(feeds, _ITEMS), window=_WINDOW)],
                "alone": lambda: [None for _ in alone.stream(itertools.repeat(feeds, _ITEMS), window=2)],
                "hetero": lambda: _all_through(hetero, feeds),
            }
            times = in_turns(calls, 5)
    rates = {f"{key}_items_per_s": _ITEMS / statistics.median(found) for key, found in times.items()}
    what = "rapidocr det over two processes of one core each, throughput against"
    yield Measured("pinned", f"{what} one of them", ratio(times["alone"], times["split"]), "x", 1.8, False, rates)
    yield Measured("pinned", f"{what} HETERO", ratio(times["hetero"], times["split"]), "x", 1.0, False)


def _copies(count: int) -> list[Device]:
    """OpenVINO's CPU device so many times, under names of its own."""
    first = device("cpu:openvino")
    return [replace(first, id=f"{first.id}#{index}" if index else first.id) for index in range(count)]


class _Cutter:
    """Cuts a model into segments in a row, one on each copy of the engine, between kernels and where little is lost.

    What a cut loses is modelled (bytes that cross, in and out of the engine's own layout); every figure that is
    reported is measured.
    """

    def __init__(self, path: Path, segments: int, threads: int | None = None) -> None:
        self._devices = _copies(segments)
        self._prepared = prepare(
            path, self._devices, _Nothing(), "throughput", _bound(path).shapes, constraints={"max_segments": segments}
        )
        self._problem = self._prepared.problem()
        kernels = _kernels(self._prepared.graph, self._devices[0], threads)
        joined = task_graph(self._prepared.graph, together=[kernel.nodes for kernel in kernels])
        took_s = {node: kernel.total_s / len(kernel.nodes) for kernel in kernels for node in kernel.nodes}
        place = {task: index for index, task in enumerate(joined)}
        self._row = list(nx.lexicographical_topological_sort(joined, key=place.__getitem__))
        nodes: list[tuple[str, ...]] = [joined.nodes[task]["nodes"] for task in self._row]
        self._position = {node: index for index, inside in enumerate(nodes) for node in inside}
        self._times_s = [sum(took_s.get(node, 0.0) for node in inside) for inside in nodes]
        self._tensors = _tensors(joined, self._row)
        self._known_s: dict[tuple[int, int], float] = {}
        self._extra_s: dict[int, float] = {}

    def best(self, folder: Path, feeds: Mapping[str, np.ndarray]) -> Plan:
        """The quickest of several plans that ran, each of which told what its cuts really lose."""
        found: dict[tuple[int, ...], tuple[float, Plan]] = {}
        for number in range(_CANDIDATES):
            ends = tuple(self.cheapest())
            if ends in found:
                break
            plan = self.plan(ends, folder / f"plan-{number}")
            found[ends] = (self.run(ends, plan, feeds, LoadOptions()).latency_s, plan)
        return min(found.values(), key=lambda pair: pair[0])[1]

    def cheapest(self) -> list[int]:
        """Positions behind which to cut, so that the least is lost and no segment is idle for long."""
        count, last = len(self._devices), len(self._row) - 1
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

    def run(self, ends: Sequence[int], plan: Plan, feeds: Mapping[str, np.ndarray], options: LoadOptions) -> Trial:
        """Run the plan of these cuts in turns with the whole, and learn from it what they lose.

        Returns
        -------
        Trial
            As if the whole had taken what it took at first: a machine changes its pace.
        """
        with workspace() as folder, OpenTrial(plan, feeds, options) as split:
            whole_plan = TrialModel(self._prepared.graph, self._devices[:1]).whole(self._devices[0], Path(folder) / "w")
            with OpenTrial(whole_plan.plan, feeds, options) as alone:
                turns = [(split.run(), alone.run()) for _ in range(_TURNS)]
        pace = sum(self._times_s) / median_trial([whole for _, whole in turns]).segments_s[0]
        trial = median_trial([part for part, _ in turns])
        trial = replace(trial, latency_s=trial.latency_s * pace, segments_s=tuple(t * pace for t in trial.segments_s))
        for start, end, time_s in zip((-1, *ends), (*ends, len(self._row) - 1), trial.segments_s, strict=True):
            self._learn(start, end, time_s)
        return trial

    def plan(self, ends: Sequence[int], folder: Path) -> Plan:
        """The plan of cuts behind these positions."""
        home = {
            task: sum(end < self._position[data["nodes"][0]] for end in ends)
            for task, data in self._problem.graph.nodes(data=True)
        }
        placement = {task: self._devices[index].id for task, index in home.items()}
        parts = tuple(
            Part(device.id, tuple(task for task in home if home[task] == index))
            for index, device in enumerate(self._devices)
        )
        proposal = Proposal(placement, parts=parts)
        return write_plan(self._prepared, self._problem, proposal, folder, strategy="cheapest cuts")

    def _work_s(self, start: int, end: int) -> float:
        return sum(self._times_s[start + 1 : end + 1])

    def _lost_s(self, start: int, end: int) -> float:
        """What the part behind one position and up to another loses by being one of its own."""
        known_s = self._known_s.get((start, end))
        if known_s is not None:
            return known_s
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
        self._known_s[start, end] = lost_s


class _Nothing:
    """Costs of devices that are not chosen among."""

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return 1e-6

    def transfer_time_s(self, size_bytes: int, src_id: str, dst_id: str) -> float:
        return 0.0

    def call_overhead_s(self, device_id: str) -> float:
        return 0.0


def _kernels(graph: Graph, engine: Device, threads: int | None) -> list[Kernel]:
    """What the engine runs as one step, and how long, in the whole model."""
    with workspace() as folder:
        plan = TrialModel(graph, [engine]).whole(engine, Path(folder) / "whole").plan
        trial = run_trial(plan, trial_feeds(plan), options=LoadOptions(threads=threads))
        return plan_kernels(plan, trial, {}, threads=threads)


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


def _bound(path: Path, threads: int | None = None) -> LoadOptions:
    """The whole model gets the shapes that its segments have."""
    declared = signature(path).inputs[0].shape
    shapes = {dim: size for dim, size in zip(declared, _SHAPE, strict=True) if isinstance(dim, str)}
    return LoadOptions(threads=threads, shapes=shapes)


def _balanced(path: Path, folder: Path, feeds: Mapping[str, np.ndarray], options: LoadOptions) -> Plan:
    """Of several splits in two, that whose longer segment really takes the least time."""
    cutter = _Cutter(path, 2, options.threads)
    found: dict[int, tuple[float, Plan]] = {}
    for number in range(_CANDIDATES):
        end = cutter.balanced()
        if end in found:
            break
        plan = cutter.plan([end], folder / f"plan-{number}")
        found[end] = (max(cutter.run([end], plan, feeds, options).segments_s), plan)
    return min(found.values(), key=lambda pair: pair[0])[1]


def _hetero(path: Path, plan: Plan, threads: int | None) -> Any:
    """The whole model in OpenVINO's HETERO, with the operators of every other segment on the second plugin."""
    core = openvino.Core()
    library = Path(openvino.__file__).parent / "libs" / "libopenvino_intel_cpu_plugin.so"
    core.register_plugin(os.fspath(library), _SECOND)
    model = core.read_model(path)
    model.reshape(list(_SHAPE))
    folding = Manager()
    folding.register_pass(ConstantFolding())  # else what computes shapes is cut too, and HETERO loses them
    folding.run_passes(model)
    makers = {
        output: node.name for node in onnx.load(path, load_external_data=False).graph.node for output in node.output
    }
    segment_of = {node: segment.index for segment in plan.segments for node in segment.nodes}
    known: dict[str, int] = {}
    for op in model.get_ordered_ops():
        tensors = {tensor for output in op.outputs() for tensor in output.get_names()}
        named = [segment_of[makers[tensor]] for tensor in tensors if makers.get(tensor) in segment_of]
        before = [known[source.get_source_output().get_node().get_friendly_name()] for source in op.inputs()]
        known[op.get_friendly_name()] = max(named or before or [0])
    for op in model.get_ordered_ops():
        index = known[op.get_friendly_name()]
        if op.get_type_name() == "Constant":  # with whoever reads it
            readers = [target.get_node().get_friendly_name() for target in op.output(0).get_target_inputs()]
            index = min((known[reader] for reader in readers), default=index)
        op.get_rt_info()["affinity"] = _SECOND if index % 2 else "CPU"
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = str(threads)
    for name in ("CPU", _SECOND):
        core.set_property(name, properties)
    return core.compile_model(model, f"HETERO:{_SECOND},CPU").create_infer_request()


def _all_through(queue: Any, feeds: Mapping[str, np.ndarray]) -> None:
    for _ in range(_ITEMS):
        queue.start_async(feeds, share_inputs=True)
    queue.wait_all()


def _same(split: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> None:
    for name, array in alone.items():
        np.testing.assert_allclose(split[name], array, rtol=1e-3, atol=1e-4)


CASES = {case.__name__: case for case in (cuts, pinned)}
