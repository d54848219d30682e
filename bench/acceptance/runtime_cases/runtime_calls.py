"""Cases about calls: one segment against its engine, transfers between devices, parallel stages, long streams."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import psutil

from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.engines.null import null_devices
from trisect.runtime.sessions.session import Session

from ..interleaved_timing import median_ratio, time_interleaved
from .handmade_plans import chain_plan, device, model_path, random_input, temporary_folder, whole_model_plan
from .runtime_figure import RuntimeFigure

ONE = LoadOptions(threads=1)
_MIB = 1 << 20
_HOPS = (("threads", 1, 30e-6), ("processes", 1, 100e-6), ("processes", 64, 64 * _MIB / 8e9))
_STAGES, _STAGE_S, _STAGE_ITEMS = 3, 0.010, 60
_STREAM_ITEMS = 200_000


def one_segment(models: Path) -> Iterator[RuntimeFigure]:
    """Compare a plan of one segment with its engine's own session."""
    for device_id, make in (("cpu:ort", _bare_ort), ("cpu:openvino", _bare_openvino)):
        with temporary_folder() as folder:
            plan = chain_plan([device(device_id)], 256, Path(folder))
            feeds = {"t0": np.ones(256, np.float32)}
            bare = make(Path(folder) / plan.segments[0].file)
            with Session(plan, options=ONE) as session:
                times = time_interleaved(
                    {"plan": partial(session.run, feeds), "bare": partial(bare, feeds)}, 40, repeat=50
                )
        added_s = statistics.median(a - b for a, b in zip(times["plan"], times["bare"], strict=True))
        yield RuntimeFigure("one_segment", f"added to a call of {device_id}", added_s * 1e6, "us", 25.0, True)
        path = model_path(models, "ch_PP-OCRv4_det_infer.onnx")
        feeds = {read_signature(path).inputs[0].name: random_input(1, 3, 224, 224)}
        bare = make(path)
        with Session(whole_model_plan(path, device_id), options=ONE) as session:
            times = time_interleaved({"plan": partial(session.run, feeds), "bare": partial(bare, feeds)}, 60, repeat=3)
        detail = {f"{name}_ms": statistics.median(times_s) * 1e3 for name, times_s in times.items()}
        what = f"rapidocr det (224x224) as a plan of one segment, against {device_id} itself"
        yield RuntimeFigure("one_segment", what, median_ratio(times["plan"], times["bare"]), "x", 1.02, True, detail)


def _bare_ort(path: Path) -> Callable[[dict[str, np.ndarray]], object]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _bare_openvino(path: Path) -> Callable[[dict[str, np.ndarray]], object]:
    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(str(path), "CPU", properties).create_infer_request()
    return lambda feeds: request.infer(feeds, share_inputs=True)


def alternating(models: Path) -> Iterator[RuntimeFigure]:
    """Compare two engines that alternate in one process with each engine alone."""
    path = model_path(models, "ch_PP-OCRv4_det_infer.onnx")
    feeds = {read_signature(path).inputs[0].name: random_input(1, 3, 640, 640)}
    modules = {name: load(path, device(name)) for name in ("cpu:ort", "cpu:openvino")}
    alone: dict[str, list[float]] = {name: [] for name in modules}
    mixed: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(4):
        for name, module in modules.items():
            alone[name] += time_interleaved({name: partial(module.run, feeds)}, 6)[name]
        both = {name: partial(module.run, feeds) for name, module in modules.items()}
        for name, times_s in time_interleaved(both, 6).items():
            mixed[name] += times_s
    for name in modules:
        slower = statistics.median(mixed[name]) / statistics.median(alone[name])
        detail = {"alone_ms": statistics.median(alone[name]) * 1e3, "in_turns_ms": statistics.median(mixed[name]) * 1e3}
        yield RuntimeFigure(
            "alternating", f"{name} in turns with another engine, against alone", slower, "x", 1.05, True, detail
        )


def hops(models: Path) -> Iterator[RuntimeFigure]:
    """Measure the time between the end of a segment and the start of the next on another device."""
    devices = [device(name) for name in ("cpu:ort", "cpu:openvino", "cpu:ort")]
    for executor, size_mib, target_s in _HOPS:
        gaps = []
        with temporary_folder() as folder:
            plan = chain_plan(devices, size_mib * _MIB // 4, Path(folder))
            feeds = {"t0": np.ones(size_mib * _MIB // 4, np.float32)}
            with Session(plan, executor, ONE) as session:
                for count in range(220 if size_mib == 1 else 22):
                    session.run(feeds)
                    computed = [event for event in session.trace.events if event.kind == "compute"]
                    if count >= 2:
                        gaps += [after.start_s - before.end_s for before, after in itertools.pairwise(computed)]
        gap_s = statistics.median(gaps)
        if size_mib == 1:
            yield RuntimeFigure("hops", f"a hop of 1 MiB, {executor}", gap_s * 1e6, "us", target_s * 1e6, True)
        else:
            rate = size_mib * _MIB / gap_s / 1e9
            what = f"a hop of {size_mib} MiB, {executor}"
            yield RuntimeFigure("hops", what, rate, "GB/s", 8.0, False, {"hop_us": gap_s * 1e6})


def offload(models: Path) -> Iterator[RuntimeFigure]:
    """Compare a pipeline of three simulated stages of 10 ms with the same stages in sequence."""
    options = LoadOptions(extra={"run_s": _STAGE_S})
    for executor in ("threads", "processes"):
        with temporary_folder() as folder:
            plan = chain_plan(null_devices("npu", _STAGES), 16 * 1024, Path(folder))
            feeds = {"t0": np.ones(16 * 1024, np.float32)}
            with Session(plan, executor, options) as session:
                calls = {
                    "in_turn": partial(_streamed, session, feeds, 1),
                    "pipeline": partial(_streamed, session, feeds, 6),
                }
                times = time_interleaved(calls, 3)
        speed_up = median_ratio(times["in_turn"], times["pipeline"])
        detail = {f"{name}_items_per_s": _STAGE_ITEMS / statistics.median(times_s) for name, times_s in times.items()}
        what = f"3 simulated stages of 10 ms as a pipeline, {executor}"
        yield RuntimeFigure("offload", what, speed_up, "x", 2.8, False, detail)


def _streamed(session: Session, feeds: dict[str, np.ndarray], window: int) -> None:
    for _ in session.stream(itertools.repeat(feeds, _STAGE_ITEMS), window=window):
        pass


def long_stream(models: Path) -> Iterator[RuntimeFigure]:
    """Compare the memory after 200,000 items of three segments with that after the first tenth."""
    devices = [device(name) for name in ("cpu:ort", "cpu:openvino", "cpu:ort")]
    feeds = {"t0": np.ones(64, np.float32)}
    process = psutil.Process()
    with temporary_folder() as folder, Session(chain_plan(devices, 64, Path(folder)), options=ONE) as session:
        warm_bytes, open_files = 0, 0
        for number, _ in enumerate(session.stream(itertools.repeat(feeds, _STREAM_ITEMS))):
            if number == _STREAM_ITEMS // 10:
                warm_bytes, open_files = process.memory_info().rss, _open_files(process)
        growth = process.memory_info().rss / warm_bytes - 1
        detail = {
            "rss_mb": process.memory_info().rss / 1e6,
            "more_open_files": float(_open_files(process) - open_files),
        }
    yield RuntimeFigure("long_stream", f"memory over {_STREAM_ITEMS:,} items", growth * 100, "%", 2.0, True, detail)


def _open_files(process: psutil.Process) -> int:
    return process.num_fds() if hasattr(process, "num_fds") else 0  # Windows has none


CASES = {case.__name__: case for case in (one_segment, alternating, hops, offload, long_stream)}
