"""Cases about cuts: what a split of a real model over copies of one engine costs, and gains, beside OpenVINO's HETERO.

All copies compute alike, so that what is measured is the splitting. HETERO gets the same cuts: the CPU plugin is
registered once more under another name, and each operator told which of the two is to run it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from openvino.passes import ConstantFolding, Manager

from trisect.runtime.engines._common import signature
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plan import Plan
from trisect.runtime.session import Session

from .cutting import CANDIDATES, Cutter
from .runtime import Measured, image, in_turns, model_in, ratio, workspace
from .runtime_calls import whole

_MODEL = "ch_PP-OCRv4_det_infer.onnx"
_SHAPE = (1, 3, 640, 640)
_BARS = {1: 1.08, 3: 1.15, 7: 1.2}
_SECOND = "NPU_CPU"
_ITEMS, _WINDOW = 24, 4


def cuts(models: Path) -> Iterator[Measured]:
    """The detector of rapidocr in 2, 4 and 8 segments on one engine, against the whole, and against HETERO."""
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    cutter = Cutter(path, _bound(path).shapes, max(_BARS) + 1)
    for count, promised in _BARS.items():
        with workspace() as folder:
            plan = cutter.best(count + 1, Path(folder), feeds)
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
    """A balanced split over two processes of one core each, against one such process with all of the model.

    Two such processes with all of the model each tell what these cores have to give: processors that share caches,
    memory or a physical core are slower together.
    """
    path = model_in(models, _MODEL)
    name = signature(path).inputs[0].name
    feeds = {name: image(*_SHAPE)}
    one = LoadOptions(threads=1)
    with workspace() as folder, contextlib.ExitStack() as opened:
        plan = _balanced(path, Path(folder), feeds, one)
        hetero = openvino.AsyncInferQueue(_hetero(path, plan, threads=1).get_compiled_model(), _WINDOW)
        split = opened.enter_context(Session(plan, "processes", one))
        wholes = []
        for core in _two_cores():
            with _allowed(core):  # what a process may use, those that it starts may
                wholes.append(Session(whole(path, "cpu:openvino"), "processes", _bound(path, threads=1)))
            opened.enter_context(wholes[-1])
        calls: dict[str, Callable[[], Any]] = {
            "split": lambda: _streamed(split, feeds, _WINDOW),
            "alone": lambda: _streamed(wholes[0], feeds, 2),
            "hetero": lambda: _all_through(hetero, feeds),
            "both": lambda: _side_by_side(wholes, feeds),
        }
        times = in_turns(calls, 5)
    rates = {f"{key}_items_per_s": _ITEMS / statistics.median(found) for key, found in times.items()}
    rates["both_items_per_s"] *= len(wholes)
    what = "rapidocr det over two processes of one core each, throughput against"
    yield Measured("pinned", f"{what} one of them", ratio(times["alone"], times["split"]), "x", 1.8, False, rates)
    yield Measured("pinned", f"{what} HETERO", ratio(times["hetero"], times["split"]), "x", 1.0, False)
    most = rates["both_items_per_s"] / rates["alone_items_per_s"]
    yield Measured("pinned", "two processes with all of the model each, against one of them", most, "x", 1.8, False)


def _two_cores() -> list[set[int]]:
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [{core} for core in there[:2]] or [set(), set()]


@contextlib.contextmanager
def _allowed(cores: set[int]) -> Iterator[None]:
    """Keep this process to some cores for a while; nothing where the system does not let it."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _streamed(session: Session, feeds: Mapping[str, np.ndarray], window: int) -> None:
    for _ in session.stream(itertools.repeat(feeds, _ITEMS), window=window):
        pass


def _side_by_side(sessions: Sequence[Session], feeds: Mapping[str, np.ndarray]) -> None:
    threads = [threading.Thread(target=_streamed, args=(session, feeds, 2)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _balanced(path: Path, folder: Path, feeds: Mapping[str, np.ndarray], options: LoadOptions) -> Plan:
    """Of several splits in two, that whose longer segment really takes the least time."""
    cutter = Cutter(path, _bound(path).shapes, 2, options.threads)
    found: dict[int, tuple[float, Plan]] = {}
    for number in range(CANDIDATES):
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


def _bound(path: Path, threads: int | None = None) -> LoadOptions:
    """The whole model gets the shapes that its segments have."""
    declared = signature(path).inputs[0].shape
    shapes = {dim: size for dim, size in zip(declared, _SHAPE, strict=True) if isinstance(dim, str)}
    return LoadOptions(threads=threads, shapes=shapes)


def _all_through(queue: Any, feeds: Mapping[str, np.ndarray]) -> None:
    for _ in range(_ITEMS):
        queue.start_async(feeds, share_inputs=True)
    queue.wait_all()


def _same(split: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> None:
    for name, array in alone.items():
        np.testing.assert_allclose(split[name], array, rtol=1e-3, atol=1e-4)


CASES = {case.__name__: case for case in (cuts, pinned)}
