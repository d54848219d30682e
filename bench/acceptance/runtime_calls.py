"""Cases about calls: one segment against its engine, hops between devices, stages side by side, streams without end."""

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
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.sessions.session import Session

from .runtime_overhead import Measured, chain, device, image, in_turns, model_in, plan_of, ratio, workspace

ONE = LoadOptions(threads=1)
_MIB = 1 << 20
_HOPS = (("threads", 1, 30e-6), ("processes", 1, 100e-6), ("processes", 64, 64 * _MIB / 8e9))
_STAGES, _STAGE_S, _STAGE_ITEMS = 3, 0.010, 60
_STREAM_ITEMS = 200_000


def one_segment(models: Path) -> Iterator[Measured]:
    """A plan of one segment against the bare session of its engine."""
    for label, make in (("ort", _bare_ort), ("openvino", _bare_openvino)):
        where = device(f"cpu:{label}")
        with workspace() as folder:
            plan = chain([where], 256, Path(folder))
            feeds = {"t0": np.ones(256, np.float32)}
            bare = make(Path(folder) / plan.segments[0].file)
            with Session(plan, options=ONE) as session:
                times = in_turns({"plan": partial(session.run, feeds), "bare": partial(bare, feeds)}, 40, repeat=50)
        added = statistics.median(a - b for a, b in zip(times["plan"], times["bare"], strict=True))
        yield Measured("one_segment", f"added to a call of {where.id}", added * 1e6, "us", 25.0, True)
        path = model_in(models, "ch_PP-OCRv4_det_infer.onnx")
        feeds = {read_signature(path).inputs[0].name: image(1, 3, 224, 224)}
        bare = make(path)
        with Session(whole(path, where.id), options=ONE) as session:
            times = in_turns({"plan": partial(session.run, feeds), "bare": partial(bare, feeds)}, 60, repeat=3)
        detail = {f"{name}_ms": statistics.median(found) * 1e3 for name, found in times.items()}
        what = f"rapidocr det (224x224) as a plan of one segment, against {where.id} itself"
        yield Measured("one_segment", what, ratio(times["plan"], times["bare"]), "x", 1.02, True, detail)


def whole(path: Path, device_id: str) -> Plan:
    """A model as it is, as a plan of one segment."""
    declared = read_signature(path)
    segment = Segment(0, device_id, ("all",), declared.inputs, declared.outputs, path.name)
    return plan_of([device(device_id)], [segment], declared.inputs, declared.outputs, path.parent)


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


def alternating(models: Path) -> Iterator[Measured]:
    """Two engines in one process, in turns, each against itself alone."""
    path = model_in(models, "ch_PP-OCRv4_det_infer.onnx")
    feeds = {read_signature(path).inputs[0].name: image(1, 3, 640, 640)}
    modules = {name: load(path, device(name)) for name in ("cpu:ort", "cpu:openvino")}
    alone: dict[str, list[float]] = {name: [] for name in modules}
    mixed: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(4):
        for name, module in modules.items():
            alone[name] += in_turns({name: partial(module.run, feeds)}, 6)[name]
        both = {name: partial(module.run, feeds) for name, module in modules.items()}
        for name, found in in_turns(both, 6).items():
            mixed[name] += found
    for name in modules:
        slower = statistics.median(mixed[name]) / statistics.median(alone[name])
        detail = {"alone_ms": statistics.median(alone[name]) * 1e3, "in_turns_ms": statistics.median(mixed[name]) * 1e3}
        yield Measured(
            "alternating", f"{name} in turns with another engine, against alone", slower, "x", 1.05, True, detail
        )


def hops(models: Path) -> Iterator[Measured]:
    """The time between the end of a segment and the start of the next on another device."""
    devices = [device(name) for name in ("cpu:ort", "cpu:openvino", "cpu:ort")]
    for executor, size_mib, promised_s in _HOPS:
        gaps = []
        with workspace() as folder:
            plan = chain(devices, size_mib * _MIB // 4, Path(folder))
            feeds = {"t0": np.ones(size_mib * _MIB // 4, np.float32)}
            with Session(plan, executor, ONE) as session:
                for count in range(220 if size_mib == 1 else 22):
                    session.run(feeds)
                    ran = [event for event in session.trace.events if event.kind == "compute"]
                    if count >= 2:
                        gaps += [after.start_s - before.end_s for before, after in itertools.pairwise(ran)]
        gap_s = statistics.median(gaps)
        if size_mib == 1:
            yield Measured("hops", f"a hop of 1 MiB, {executor}", gap_s * 1e6, "us", promised_s * 1e6, True)
        else:
            rate = size_mib * _MIB / gap_s / 1e9
            what = f"a hop of {size_mib} MiB, {executor}"
            yield Measured("hops", what, rate, "GB/s", 8.0, False, {"hop_us": gap_s * 1e6})


def offload(models: Path) -> Iterator[Measured]:
    """Three simulated stages of 10 ms that need no processor, as a pipeline against one after the other."""
    options = LoadOptions(extra={"run_s": _STAGE_S})
    for executor in ("threads", "processes"):
        with workspace() as folder:
            plan = chain(null_devices("npu", _STAGES), 16 * 1024, Path(folder))
            feeds = {"t0": np.ones(16 * 1024, np.float32)}
            with Session(plan, executor, options) as session:
                calls = {
                    "in_turn": partial(_streamed, session, feeds, 1),
                    "pipeline": partial(_streamed, session, feeds, 6),
                }
                times = in_turns(calls, 3)
        faster = ratio(times["in_turn"], times["pipeline"])
        detail = {f"{name}_items_per_s": _STAGE_ITEMS / statistics.median(found) for name, found in times.items()}
        what = f"3 simulated stages of 10 ms as a pipeline, {executor}"
        yield Measured("offload", what, faster, "x", 2.8, False, detail)


def _streamed(session: Session, feeds: dict[str, np.ndarray], window: int) -> None:
    for _ in session.stream(itertools.repeat(feeds, _STAGE_ITEMS), window=window):
        pass


def long_stream(models: Path) -> Iterator[Measured]:
    """Memory after 200,000 items of three segments, against that after the first tenth."""
    devices = [device(name) for name in ("cpu:ort", "cpu:openvino", "cpu:ort")]
    feeds = {"t0": np.ones(64, np.float32)}
    me = psutil.Process()
    with workspace() as folder, Session(chain(devices, 64, Path(folder)), options=ONE) as session:
        warm, open_files = 0, 0
        for number, _ in enumerate(session.stream(itertools.repeat(feeds, _STREAM_ITEMS))):
            if number == _STREAM_ITEMS // 10:
                warm, open_files = me.memory_info().rss, _open_files(me)
        growth = me.memory_info().rss / warm - 1
        detail = {"rss_mb": me.memory_info().rss / 1e6, "more_open_files": float(_open_files(me) - open_files)}
    yield Measured("long_stream", f"memory over {_STREAM_ITEMS:,} items", growth * 100, "%", 2.0, True, detail)


def _open_files(process: psutil.Process) -> int:
    return process.num_fds() if hasattr(process, "num_fds") else 0  # Windows has none


CASES = {case.__name__: case for case in (one_segment, alternating, hops, offload, long_stream)}
