"""Cases about cuts: cost and speed-up of splitting a real model over copies of one engine, beside OpenVINO's HETERO.

All copies compute alike, so that only the splitting is measured. HETERO gets the same cuts: the CPU plugin is
registered a second time under another name, and each operator is assigned to one of the two.
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

from ...model_packages import known_files
from ..interleaved_timing import median_ratio, run_interleaved, time_interleaved
from .handmade_plans import model_path, temporary_folder, whole_model_plan
from .kernel_cutter import KernelCutter
from .runtime_figure import RuntimeFigure

DETECTOR, TURN_DETECTION = "ch_PP-OCRv4_det_infer.onnx", "smart-turn-v3.2-cpu.onnx"
_SIDE = 640
_TARGETS = {1: 1.08, 3: 1.15, 7: 1.2}
_DEVICE, _SECOND_PLUGIN = "cpu:openvino", "NPU_CPU"
_ITEMS, _WINDOW, _FILLING = 24, 4, 3


def cuts(models: Path) -> Iterator[RuntimeFigure]:
    """Compare rapidocr's detector in 2, 4 and 8 segments on one engine with the whole model, and with HETERO."""
    path, shapes = real_model(models, DETECTOR)
    with temporary_folder() as folder:
        cutter = KernelCutter(path, shapes, max(_TARGETS) + 1, Path(folder))
        for count, target in _TARGETS.items():
            yield from _cut(path, shapes, cutter.best(count + 1), cutter.feeds, target)


def _cut(
    path: Path, shapes: Mapping[str, int], plan: Plan, feeds: Mapping[str, np.ndarray], target: float
) -> Iterator[RuntimeFigure]:
    hetero = _hetero(path, plan, threads=None)
    with (
        Session(plan) as split,
        Session(whole_model_plan(path, _DEVICE), options=LoadOptions(shapes=dict(shapes))) as alone,
    ):
        _assert_close(split.run(feeds), alone.run(feeds))
        calls: dict[str, Callable[[], Any]] = {
            "whole": partial(alone.run, feeds),
            "split": partial(split.run, feeds),
            "hetero": partial(hetero.infer, feeds, share_inputs=True),
        }
        times = time_interleaved(calls, 12)
    detail = {f"{key}_ms": statistics.median(times_s) * 1e3 for key, times_s in times.items()}
    detail["segments"] = float(len(plan.segments))
    detail["crossing_mb"] = sum(move.size_bytes for move in plan.transfers if move.source >= 0 <= move.target) / 1e6
    what = f"rapidocr det in {len(plan.segments)} segments"
    yield RuntimeFigure(
        "cuts", f"{what}, against whole", median_ratio(times["split"], times["whole"]), "x", target, True, detail
    )
    yield RuntimeFigure(
        "cuts", f"{what}, against HETERO", median_ratio(times["split"], times["hetero"]), "x", 1.0, True
    )


def pinned(models: Path) -> Iterator[RuntimeFigure]:
    """Compare balanced splits over two processes of one core each with one such process that runs the whole model.

    Two such processes that each run the whole model show what these cores can deliver: cores that share caches, memory
    or a physical core are slower together.
    """
    for model in (DETECTOR, TURN_DETECTION):
        path, shapes = real_model(models, model)
        one = LoadOptions(threads=1, shapes=shapes)
        with temporary_folder() as folder, contextlib.ExitStack() as opened:
            cutter = KernelCutter(path, shapes, 2, Path(folder), threads=1)
            plan, feeds = cutter.most_balanced(), cutter.feeds
            hetero = openvino.AsyncInferQueue(_hetero(path, plan, threads=1).get_compiled_model(), _WINDOW)
            split = opened.enter_context(Session(plan, "processes", LoadOptions(threads=1)))
            wholes = []
            for core in _two_cores():
                with _pinned_to(core):  # child processes inherit the affinity
                    wholes.append(Session(whole_model_plan(path, _DEVICE), "processes", one))
                opened.enter_context(wholes[-1])
            calls = {
                "split": partial(stream_interval_s, split, feeds, _ITEMS, _WINDOW),
                "alone": partial(stream_interval_s, wholes[0], feeds, _ITEMS, 2),
                "hetero": partial(_queue_interval_s, hetero, feeds),
                "both": partial(_parallel_interval_s, wholes, feeds),
            }
            times_s = run_interleaved(calls, 5)
        what = f"{path.stem} over two processes of one core each"
        yield from throughput_figures(
            "pinned", what, times_s, {"alone": ("one of them", 1.8), "hetero": ("HETERO", 1.0)}
        )
        what = f"{path.stem}, two processes with all of it each, against one of them"
        yield RuntimeFigure("pinned", what, median_ratio(times_s["alone"], times_s["both"]), "x", 1.8, False)


def _two_cores() -> list[set[int]]:
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [{core} for core in available[:2]] or [set(), set()]


@contextlib.contextmanager
def _pinned_to(cores: set[int]) -> Iterator[None]:
    """Pin this process to some cores within the block, where the system supports it."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def throughput_figures(
    case: str, what: str, times_s: Mapping[str, Sequence[float]], others: Mapping[str, tuple[str, float]]
) -> Iterator[RuntimeFigure]:
    """Yield the throughput of ``split`` relative to that of each other side; the first has all rates as detail.

    Parameters
    ----------
    case, what : str
    times_s : mapping of str to sequence of float
        Side -> seconds per item, in each round.
    others : mapping of str to (str, float)
        Side -> its name, and the target.
    """
    rates = {f"{side}_items_per_s": 1 / statistics.median(values) for side, values in times_s.items()}
    for side, (name, target) in others.items():
        relative = median_ratio(times_s[side], times_s["split"])
        yield RuntimeFigure(case, f"{what}, throughput against {name}", relative, "x", target, False, rates)
        rates = {}


def stream_interval_s(session: Session, feeds: Mapping[str, np.ndarray], items: int, window: int) -> float:
    """Return the seconds between two results of a stream, once its pipeline is filled."""
    done_s = [time.perf_counter() for _ in session.stream(itertools.repeat(feeds, items), window=window)]
    return interval_s(done_s)


def interval_s(done_s: Sequence[float]) -> float:
    """Return the mean seconds between two results, without the first few, from the time of each."""
    filled = done_s[_FILLING:]
    return (filled[-1] - filled[0]) / (len(filled) - 1)


def _parallel_interval_s(sessions: Sequence[Session], feeds: Mapping[str, np.ndarray]) -> float:
    with ThreadPoolExecutor() as pool:
        intervals_s = list(pool.map(lambda session: stream_interval_s(session, feeds, _ITEMS, 2), sessions))
    return 1 / sum(1 / each_s for each_s in intervals_s)


def real_model(models: Path, name: str) -> tuple[Path, dict[str, int]]:
    """Return a model and the sizes of its symbolic dimensions; the detector's are those of its targets."""
    path = model_path(models, name)
    if name != DETECTOR:
        return path, dict(known_files()[name].shapes)
    sizes = (1, 3, _SIDE, _SIDE)
    return path, {d: n for d, n in zip(read_signature(path).inputs[0].shape, sizes, strict=True) if isinstance(d, str)}


def _hetero(path: Path, plan: Plan, threads: int | None) -> Any:
    """Compile the whole model by OpenVINO's HETERO, with every other segment's operators on the second plugin."""
    core = openvino.Core()
    library = Path(openvino.__file__).parent / "libs" / "libopenvino_intel_cpu_plugin.so"
    core.register_plugin(os.fspath(library), _SECOND_PLUGIN)
    model = core.read_model(path)
    model.reshape({spec.name: list(spec.shape) for spec in plan.inputs})
    folding = Manager()
    folding.register_pass(ConstantFolding())  # otherwise shape computations are cut too, and HETERO loses them
    folding.run_passes(model)
    producers = {
        output: node.name for node in onnx.load(path, load_external_data=False).graph.node for output in node.output
    }
    segment_of = {node: segment.index for segment in plan.segments for node in segment.nodes}
    segment_by_op: dict[str, int] = {}
    for op in model.get_ordered_ops():
        tensors = {tensor for output in op.outputs() for tensor in output.get_names()}
        own = [segment_of[producers[tensor]] for tensor in tensors if producers.get(tensor) in segment_of]
        before = [segment_by_op[source.get_source_output().get_node().get_friendly_name()] for source in op.inputs()]
        segment_by_op[op.get_friendly_name()] = max(own or before or [0])
    for op in model.get_ordered_ops():
        index = segment_by_op[op.get_friendly_name()]
        if op.get_type_name() == "Constant":  # with its readers
            readers = [target.get_node().get_friendly_name() for target in op.output(0).get_target_inputs()]
            index = min((segment_by_op[reader] for reader in readers), default=index)
        op.get_rt_info()["affinity"] = _SECOND_PLUGIN if index % 2 else "CPU"
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = str(threads)
    for name in ("CPU", _SECOND_PLUGIN):
        core.set_property(name, properties)
    return core.compile_model(model, f"HETERO:{_SECOND_PLUGIN},CPU").create_infer_request()


def _queue_interval_s(queue: Any, feeds: Mapping[str, np.ndarray]) -> float:
    done_s: list[float] = []
    queue.set_callback(lambda request, userdata: done_s.append(time.perf_counter()))
    for _ in range(_ITEMS):
        queue.start_async(feeds, share_inputs=True)
    queue.wait_all()
    return interval_s(done_s)


def _assert_close(split: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> None:
    for name, array in alone.items():
        np.testing.assert_allclose(split[name], array, rtol=1e-3, atol=1e-4)


CASES = {case.__name__: case for case in (cuts, pinned)}
