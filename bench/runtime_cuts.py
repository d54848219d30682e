"""Cases about cuts: what a split of a real model over copies of one engine costs, and gains, beside OpenVINO's HETERO.

All copies compute alike, so that what is measured is the splitting. HETERO gets the same cuts: the CPU plugin is
registered once more under another name, and each operator told which of the two is to run it.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from openvino.passes import ConstantFolding, Manager

from trisect.partitioner.planning import make_plan
from trisect.profiles.features import OpFeatures
from trisect.runtime.devices import Device
from trisect.runtime.engines._common import signature
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plan import Plan
from trisect.runtime.session import Session

from .runtime import Measured, device, image, in_turns, model_in, ratio, workspace
from .runtime_calls import whole

_MODEL = "ch_PP-OCRv4_det_infer.onnx"
_SHAPE = (1, 3, 640, 640)
_BARS = {1: 1.08, 3: 1.15, 7: 1.2}
_SECOND = "NPU_CPU"
_ITEMS, _WINDOW = 24, 4
_BIASES = (1.0, 0.9, 1.1, 0.8, 1.25, 0.7, 1.4)


@dataclass(frozen=True)
class _Alike:
    """Costs of devices that compute alike: a roofline, and for a cut the copies and layouts that it takes.

    What is modelled here chooses cuts only; every figure that is reported is measured.
    """

    first: str
    bias: float
    """How much longer the first device is taken to need."""
    cut_bytes_per_s: float
    """What a cut costs: the less, the more it matters where to cut, and the less that all segments are alike."""

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        time_s = max(features.flops / 4e10, (features.bytes_read + features.bytes_written) / 2e10) + 2e-6
        return time_s * (self.bias if device_id == self.first else 1.0)

    def transfer_time_s(self, size_bytes: int, src_id: str, dst_id: str) -> float:
        return 0.0 if src_id == dst_id else 2e-5 + size_bytes / self.cut_bytes_per_s

    def call_overhead_s(self, device_id: str) -> float:
        return 2e-5


def cuts(models: Path) -> Iterator[Measured]:
    """The detector of rapidocr in 2, 4 and 8 segments on one engine, against the whole, and against HETERO."""
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    for count, promised in _BARS.items():
        with workspace() as folder:
            plan = _split(path, count + 1, Path(folder) / "plan")
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


def _split(path: Path, segments: int, folder: Path, bias: float = 1.0, cut_bytes_per_s: float = 2e9) -> Plan:
    """A plan whose segments take about the same time, by the planner, one on each copy of the engine."""
    devices = _copies(segments)
    costs, shapes = _Alike(devices[0].id, bias, cut_bytes_per_s), _bound(path).shapes
    return make_plan(
        path, devices, costs, "auto", "throughput", shapes, out_folder=folder, constraints={"max_segments": segments}
    )


def _bound(path: Path, threads: int | None = None) -> LoadOptions:
    """The whole model gets the shapes that its segments have."""
    declared = signature(path).inputs[0].shape
    shapes = {dim: size for dim, size in zip(declared, _SHAPE, strict=True) if isinstance(dim, str)}
    return LoadOptions(threads=threads, shapes=shapes)


def _balanced(path: Path, folder: Path, feeds: Mapping[str, np.ndarray], options: LoadOptions) -> Plan:
    """Of several splits in two, that whose segments really take the most equal times."""
    found: list[tuple[float, Plan]] = []
    for bias in _BIASES:
        plan = _split(path, 2, folder / f"plan-{bias}", bias)
        with Session(plan, "processes", options) as session:
            session.run(feeds)
            times: dict[str, list[float]] = {}
            for _ in range(4):
                session.run(feeds)
                for event in session.trace.events:
                    if event.kind == "compute":
                        times.setdefault(event.device, []).append(event.duration_s)
        found.append((max(sum(busy) for busy in times.values()), plan))
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
