"""Cases about cuts: what a split of a real model over copies of one engine costs, and gains, beside OpenVINO's HETERO.

All copies compute alike, so that what is measured is the splitting. HETERO gets the same cuts: the CPU plugin is
registered once more under another name, and each operator told which of the two is to run it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from openvino.passes import ConstantFolding, Manager

from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

from ..model_packages import known_files
from .kernel_cutter import Cutter
from .runtime_calls import whole
from .runtime_overhead import Measured, in_turns, model_in, ratio, told_in_turns, workspace

DETECTOR, TURNS = "ch_PP-OCRv4_det_infer.onnx", "smart-turn-v3.2-cpu.onnx"
_SIDE = 640
_BARS = {1: 1.08, 3: 1.15, 7: 1.2}
_ENGINE, _SECOND = "cpu:openvino", "NPU_CPU"
_ITEMS, _WINDOW, _FILLING = 24, 4, 3


def cuts(models: Path) -> Iterator[Measured]:
    """The detector of rapidocr in 2, 4 and 8 segments on one engine, against the whole, and against HETERO."""
    path, shapes = real_model(models, DETECTOR)
    with workspace() as folder:
        cutter = Cutter(path, shapes, max(_BARS) + 1, Path(folder))
        for count, promised in _BARS.items():
            yield from _cut(path, shapes, cutter.best(count + 1), cutter.feeds, promised)


def _cut(
    path: Path, shapes: Mapping[str, int], plan: Plan, feeds: Mapping[str, np.ndarray], promised: float
) -> Iterator[Measured]:
    hetero = _hetero(path, plan, threads=None)
    with Session(plan) as split, Session(whole(path, _ENGINE), options=LoadOptions(shapes=dict(shapes))) as alone:
        _same(split.run(feeds), alone.run(feeds))
        calls: dict[str, Callable[[], Any]] = {
            "whole": partial(alone.run, feeds),
            "split": partial(split.run, feeds),
            "hetero": partial(hetero.infer, feeds, share_inputs=True),
        }
        times = in_turns(calls, 12)
    detail = {f"{key}_ms": statistics.median(found) * 1e3 for key, found in times.items()}
    detail["segments"] = float(len(plan.segments))
    detail["crossing_mb"] = sum(move.size_bytes for move in plan.transfers if move.source >= 0 <= move.target) / 1e6
    what = f"rapidocr det in {len(plan.segments)} segments"
    yield Measured("cuts", f"{what}, against whole", ratio(times["split"], times["whole"]), "x", promised, True, detail)
    yield Measured("cuts", f"{what}, against HETERO", ratio(times["split"], times["hetero"]), "x", 1.0, True)


def pinned(models: Path) -> Iterator[Measured]:
    """Balanced splits over two processes of one core each, against one such process with all of the model.

    Two such processes with all of the model each tell what these cores have to give: processors that share caches,
    memory or a physical core are slower together.
    """
    for model in (DETECTOR, TURNS):
        path, shapes = real_model(models, model)
        one = LoadOptions(threads=1, shapes=shapes)
        with workspace() as folder, contextlib.ExitStack() as opened:
            cutter = Cutter(path, shapes, 2, Path(folder), threads=1)
            plan, feeds = cutter.most_balanced(), cutter.feeds
            hetero = openvino.AsyncInferQueue(_hetero(path, plan, threads=1).get_compiled_model(), _WINDOW)
            split = opened.enter_context(Session(plan, "processes", LoadOptions(threads=1)))
            wholes = []
            for core in _two_cores():
                with _allowed(core):  # what a process may use, those that it starts may
                    wholes.append(Session(whole(path, _ENGINE), "processes", one))
                opened.enter_context(wholes[-1])
            taken = {
                "split": partial(streamed_s, split, feeds, _ITEMS, _WINDOW),
                "alone": partial(streamed_s, wholes[0], feeds, _ITEMS, 2),
                "hetero": partial(_queued_s, hetero, feeds),
                "both": partial(_side_by_side_s, wholes, feeds),
            }
            times_s = told_in_turns(taken, 5)
        what = f"{path.stem} over two processes of one core each"
        yield from throughputs("pinned", what, times_s, {"alone": ("one of them", 1.8), "hetero": ("HETERO", 1.0)})
        what = f"{path.stem}, two processes with all of it each, against one of them"
        yield Measured("pinned", what, ratio(times_s["alone"], times_s["both"]), "x", 1.8, False)


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


def throughputs(
    case: str, what: str, times_s: Mapping[str, Sequence[float]], others: Mapping[str, tuple[str, float]]
) -> Iterator[Measured]:
    """How many times the items a second of each other side ``split`` gives; all rates go with the first.

    Parameters
    ----------
    case, what : str
    times_s : mapping of str to sequence of float
        Side -> seconds of an item, in each round.
    others : mapping of str to (str, float)
        Side -> what it is, and what was promised against it.
    """
    rates = {f"{side}_items_per_s": 1 / statistics.median(found) for side, found in times_s.items()}
    for side, (name, promised) in others.items():
        times = ratio(times_s[side], times_s["split"])
        yield Measured(case, f"{what}, throughput against {name}", times, "x", promised, False, rates)
        rates = {}


def streamed_s(session: Session, feeds: Mapping[str, np.ndarray], items: int, window: int) -> float:
    """Seconds between two results of a stream, once its stages are filled."""
    done_s = [time.perf_counter() for _ in session.stream(itertools.repeat(feeds, items), window=window)]
    return between_s(done_s)


def between_s(done_s: Sequence[float]) -> float:
    """Seconds between two results, the first few left out, from when each came."""
    filled = done_s[_FILLING:]
    return (filled[-1] - filled[0]) / (len(filled) - 1)


def _side_by_side_s(sessions: Sequence[Session], feeds: Mapping[str, np.ndarray]) -> float:
    with ThreadPoolExecutor() as pool:
        each = list(pool.map(lambda session: streamed_s(session, feeds, _ITEMS, 2), sessions))
    return 1 / sum(1 / taken_s for taken_s in each)


def real_model(models: Path, name: str) -> tuple[Path, dict[str, int]]:
    """A model and the sizes of its symbolic dimensions; the detector at the size of the promises made of it."""
    path = model_in(models, name)
    if name != DETECTOR:
        return path, dict(known_files()[name].shapes)
    sizes = (1, 3, _SIDE, _SIDE)
    return path, {d: n for d, n in zip(read_signature(path).inputs[0].shape, sizes, strict=True) if isinstance(d, str)}


def _hetero(path: Path, plan: Plan, threads: int | None) -> Any:
    """The whole model in OpenVINO's HETERO, with the operators of every other segment on the second plugin."""
    core = openvino.Core()
    library = Path(openvino.__file__).parent / "libs" / "libopenvino_intel_cpu_plugin.so"
    core.register_plugin(os.fspath(library), _SECOND)
    model = core.read_model(path)
    model.reshape({spec.name: list(spec.shape) for spec in plan.inputs})
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


def _queued_s(queue: Any, feeds: Mapping[str, np.ndarray]) -> float:
    done_s: list[float] = []
    queue.set_callback(lambda request, known: done_s.append(time.perf_counter()))
    for _ in range(_ITEMS):
        queue.start_async(feeds, share_inputs=True)
    queue.wait_all()
    return between_s(done_s)


def _same(split: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> None:
    for name, array in alone.items():
        np.testing.assert_allclose(split[name], array, rtol=1e-3, atol=1e-4)


CASES = {case.__name__: case for case in (cuts, pinned)}
