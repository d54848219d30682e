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

from trisect.partitioner.planning import prepare, write_plan
from trisect.profiles.features import OpFeatures
from trisect.runtime.devices import Device
from trisect.runtime.engines._common import signature
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plan import Plan
from trisect.runtime.session import Session
from trisect.scheduler.solution import Proposal

from .runtime import Measured, device, image, in_turns, model_in, ratio, workspace
from .runtime_calls import whole

_MODEL = "ch_PP-OCRv4_det_infer.onnx"
_SHAPE = (1, 3, 640, 640)
_BARS = {1: 1.08, 3: 1.15, 7: 1.2}
_SECOND = "NPU_CPU"
_ITEMS, _WINDOW = 24, 4
_LEAST_SHARE = 0.03
"""Of the mean segment's time, what each must take at least: a cut behind the last operator would be none."""
_MIDDLE, _CANDIDATES = (0.3, 0.7), 10


class _Alike:
    """Costs of devices that compute alike: a roofline, and the copies that a cut takes.

    What is modelled here chooses cuts only; every figure that is reported is measured.
    """

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return max(features.flops / 4e10, (features.bytes_read + features.bytes_written) / 2e10) + 2e-6

    def transfer_time_s(self, size_bytes: int, src_id: str, dst_id: str) -> float:
        return 0.0 if src_id == dst_id else 2e-5 + size_bytes / 2e9

    def call_overhead_s(self, device_id: str) -> float:
        return 2e-5


def cuts(models: Path) -> Iterator[Measured]:
    """The detector of rapidocr in 2, 4 and 8 segments on one engine, against the whole, and against HETERO."""
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    for count, promised in _BARS.items():
        with workspace() as folder:
            cutter = _Cutter(path, count + 1)
            plan = cutter.plan(cutter.cheapest(), Path(folder) / "plan")
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
    """Cuts a model into segments in a row, one on each copy of the engine, where few bytes cross."""

    def __init__(self, path: Path, segments: int) -> None:
        self._devices = _copies(segments)
        self._prepared = prepare(path, self._devices, _Alike(), "throughput", _bound(path).shapes)
        self._problem = self._prepared.problem()
        graph = self._problem.graph
        place = {task: index for index, task in enumerate(graph)}
        self._order = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        self._crossing = _crossing(graph, self._order)
        times = [self._problem.time(task, self._devices[0]) for task in self._order]
        self._done = [sum(times[: index + 1]) / sum(times) for index in range(len(times))]

    def cheapest(self) -> list[int]:
        """Positions behind which to cut, so that the fewest bytes cross and no segment is idle for long."""
        count, least = len(self._devices), _LEAST_SHARE / len(self._devices)
        best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
        for _ in range(count - 1):
            following: dict[int, tuple[float, list[int]]] = {}
            for end, crossing in enumerate(self._crossing):
                before = [
                    (cost + crossing, [*found, end])
                    for start, (cost, found) in best.items()
                    if start < end and self._share(start, end) >= least
                ]
                if before:
                    following[end] = min(before)
            best = following
        return min(found for end, found in best.items() if 1 - self._done[end] >= least)[1]

    def candidates(self, count: int) -> list[list[int]]:
        """Single cuts near the middle, those that fewest bytes cross first."""
        middle = [end for end, done in enumerate(self._done) if _MIDDLE[0] <= done <= _MIDDLE[1]]
        return [[end] for end in sorted(middle, key=self._crossing.__getitem__)[:count]]

    def plan(self, ends: Sequence[int], folder: Path) -> Plan:
        """The plan of cuts behind these positions."""
        placement = {task: self._devices[sum(end < index for end in ends)].id for index, task in enumerate(self._order)}
        return write_plan(self._prepared, self._problem, Proposal(placement), folder, strategy="cheapest cuts")

    def _share(self, start: int, end: int) -> float:
        return self._done[end] - (self._done[start] if start >= 0 else 0.0)


def _crossing(graph: nx.DiGraph[str], order: Sequence[str]) -> list[float]:
    """Bytes of the tensors that are needed behind each position and made before."""
    place = {task: index for index, task in enumerate(order)}
    change = [0.0] * (len(order) + 1)
    lasts: dict[tuple[str, str], tuple[int, float]] = {}
    for source, target, data in graph.edges(data=True):
        for tensor, size_bytes in data["tensors"].items():
            last = max(place[target], lasts.get((source, tensor), (0, 0.0))[0])
            lasts[source, tensor] = (last, size_bytes)
    for (source, _), (last, size_bytes) in lasts.items():
        change[place[source]] += size_bytes
        change[last] -= size_bytes
    return list(itertools.accumulate(change))[: len(order) - 1]


def _bound(path: Path, threads: int | None = None) -> LoadOptions:
    """The whole model gets the shapes that its segments have."""
    declared = signature(path).inputs[0].shape
    shapes = {dim: size for dim, size in zip(declared, _SHAPE, strict=True) if isinstance(dim, str)}
    return LoadOptions(threads=threads, shapes=shapes)


def _balanced(path: Path, folder: Path, feeds: Mapping[str, np.ndarray], options: LoadOptions) -> Plan:
    """Of several splits in two, that whose longer segment really takes the least time."""
    cutter = _Cutter(path, 2)
    found: list[tuple[float, Plan]] = []
    for number, ends in enumerate(cutter.candidates(_CANDIDATES)):
        plan = cutter.plan(ends, folder / f"plan-{number}")
        with Session(plan, options=options) as session:
            times: dict[str, list[float]] = {}
            for turn in range(4):
                session.run(feeds)
                for event in session.trace.events:
                    if event.kind == "compute" and turn:
                        times.setdefault(event.name, []).append(event.duration_s)
        found.append((max(min(busy) for busy in times.values()), plan))
    return min(found, key=lambda pair: pair[0])[1]


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
