"""Cases about Ray: trisect's executor with shared memory against plain Ray with its object store.

Plain Ray follows Ray's documentation: an actor for each segment, object references passed from one to the next, and a
bounded number of items in flight. The actors run the same segments on the same engines.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trisect.runtime.cluster.ray_connection import RayConnection, connect
from trisect.runtime.core_affinity import assign_cores
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.null import null_devices
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

from ..interleaved_timing import median_ratio, run_interleaved, time_interleaved
from .handmade_plans import chain_plan, device, temporary_folder, whole_model_plan
from .kernel_cutter import KernelCutter
from .runtime_cuts import DETECTOR, TURN_DETECTION, interval_s, real_model, stream_interval_s, throughput_figures
from .runtime_figure import RuntimeFigure

_MIB = 1 << 20
_OBJECT_STORE_BYTES = 1 << 30
_STAGES, _STAGE_S = 3, 0.010
_ITEMS, _WINDOW = 24, 4
_PLAIN_WINDOW = 8
ONE = LoadOptions(threads=1)


class PlainActor:
    """An actor of plain Ray that runs a segment."""

    def __init__(self, file: str, device: Device, options: LoadOptions, cores: Sequence[int]) -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        self._module = load(Path(file), device, options)

    def run(self, inputs: Sequence[str], outputs: Sequence[str], *arrays: np.ndarray) -> Any:
        """Return the outputs, each a Ray object."""
        values = self._module.run(dict(zip(inputs, arrays, strict=True)))
        return values[outputs[0]] if len(outputs) == 1 else tuple(values[name] for name in outputs)


class PlainRayPipeline:
    """A plan's segments as actors of plain Ray."""

    def __init__(self, connection: RayConnection, plan: Plan, options: LoadOptions) -> None:
        self._ray = connection.ray
        self._plan = plan
        devices = {device.id: device for device in plan.devices}
        cores = assign_cores(list(plan.devices), options.threads, side_by_side=True)
        remote = self._ray.remote(num_cpus=0)(PlainActor)
        self._actors = [
            remote.remote(str(Path(plan.folder) / s.file), devices[s.device], options, cores[s.device])
            for s in plan.segments
        ]

    def start(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Return references to an item's outputs."""
        references: dict[str, Any] = dict(feeds)
        for actor, segment in zip(self._actors, self._plan.segments, strict=True):
            inputs, outputs = ([spec.name for spec in specs] for specs in (segment.inputs, segment.outputs))
            arguments = [references[name] for name in inputs]
            made = actor.run.options(num_returns=len(outputs)).remote(inputs, outputs, *arguments)
            references.update(zip(outputs, made if len(outputs) > 1 else [made], strict=True))
        return [references[spec.name] for spec in self._plan.outputs]

    def stream(self, feeds: Mapping[str, np.ndarray], count: int, window: int) -> list[float]:
        """Run many items with a bounded number in flight; return the time at which each was done."""
        in_flight: deque[list[Any]] = deque()
        done_s: list[float] = []

        def wait_for_first() -> None:
            self._ray.get(in_flight.popleft())
            done_s.append(time.perf_counter())

        for _ in range(count):
            if len(in_flight) == window:
                wait_for_first()
            in_flight.append(self.start(feeds))
        while in_flight:
            wait_for_first()
        return done_s

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


def _call(connection: RayConnection, pipeline: PlainRayPipeline, feeds: Mapping[str, np.ndarray]) -> None:
    connection.ray.get(pipeline.start(feeds))


def ray_hops(models: Path) -> Iterator[RuntimeFigure]:
    """Measure the time of a transfer between actors: in shared memory, and through Ray's object store."""
    for size_mib, rounds in ((1, 200), (64, 24)):
        elements = size_mib * _MIB // 4
        feeds = {"t0": np.ones(elements, np.float32)}
        pair = [device("cpu:ort"), device("cpu:openvino")]
        with connect(store_bytes=_OBJECT_STORE_BYTES) as connection, temporary_folder() as folder:
            plan = chain_plan([*pair, pair[0]], elements, Path(folder))
            gaps, plain_s = [], []
            with Session(plan, "ray", ONE) as session:
                for _ in range(rounds):
                    session.run(feeds)
                    computed = [event for event in session.trace.events if event.kind == "compute"]
                    gaps += [after.start_s - before.end_s for before, after in itertools.pairwise(computed)]
                computing_s = sum(event.duration_s for event in computed)
            plain = PlainRayPipeline(connection, plan, ONE)
            calls = {"plain": partial(_call, connection, plain, feeds)}
            for call_s in time_interleaved(calls, rounds // 4)["plain"]:
                # Four transfers: to the first actor, twice between actors, and back, without computing.
                plain_s.append(max(call_s - computing_s, 0.0) / 4)
            plain.close()
        gap_s, plain_gap_s = statistics.median(gaps), statistics.median(plain_s)
        detail = {"hop_us": gap_s * 1e6, "plain_ray_us": plain_gap_s * 1e6}
        what = f"a hop of {size_mib} MiB, ray, same node"
        if size_mib == 1:
            yield RuntimeFigure("ray_hops", what, gap_s * 1e6, "us", 100.0, True, detail)
        else:
            yield RuntimeFigure("ray_hops", what, size_mib * _MIB / gap_s / 1e9, "GB/s", 8.0, False, detail)


def ray_offload(models: Path) -> Iterator[RuntimeFigure]:
    """Compare a pipeline of three simulated stages of 10 ms with the same stages in sequence."""
    options = LoadOptions(extra={"run_s": _STAGE_S})
    feeds = {"t0": np.ones(64 * 1024, np.float32)}
    with connect(store_bytes=_OBJECT_STORE_BYTES) as connection, temporary_folder() as folder:
        plan = chain_plan(null_devices("npu", _STAGES), 64 * 1024, Path(folder))
        plain = PlainRayPipeline(connection, plan, options)
        with Session(plan, "ray", options) as session:
            calls = {
                "in_turn": lambda: [session.run(feeds) for _ in range(60)],
                "pipeline": lambda: [None for _ in session.stream(itertools.repeat(feeds, 60), window=6)],
                "plain_ray": lambda: plain.stream(feeds, 60, _PLAIN_WINDOW),
            }
            times = time_interleaved(calls, 3)
        plain.close()
    detail = {f"{name}_items_per_s": 60 / statistics.median(times_s) for name, times_s in times.items()}
    what = "3 simulated stages of 10 ms as a pipeline, ray"
    yield RuntimeFigure("ray_offload", what, median_ratio(times["in_turn"], times["pipeline"]), "x", 2.7, False, detail)


def ray_pinned(models: Path) -> Iterator[RuntimeFigure]:
    """Compare balanced splits over two actors of one core each with one core alone, and with plain Ray's pipeline."""
    for model in (DETECTOR, TURN_DETECTION):
        path, shapes = real_model(models, model)
        with (
            connect(store_bytes=_OBJECT_STORE_BYTES) as connection,
            temporary_folder() as folder,
            contextlib.ExitStack() as opened,
        ):
            cutter = KernelCutter(path, shapes, 2, Path(folder), threads=1)
            plan, feeds = cutter.most_balanced(), cutter.feeds
            plain = PlainRayPipeline(connection, plan, ONE)
            opened.callback(plain.close)
            split = opened.enter_context(Session(plan, "ray", ONE))
            alone = opened.enter_context(
                Session(whole_model_plan(path, "cpu:openvino"), "ray", replace(ONE, shapes=shapes))
            )
            calls: dict[str, Callable[[], float]] = {
                "split": partial(stream_interval_s, split, feeds, _ITEMS, _WINDOW),
                "alone": partial(stream_interval_s, alone, feeds, _ITEMS, 2),
                "plain_ray": lambda: interval_s(plain.stream(feeds, _ITEMS, _PLAIN_WINDOW)),  # noqa: B023
            }
            times_s = run_interleaved(calls, 4)
        what = f"{path.stem} over two actors of one core each"
        others = {"alone": ("one of them", 1.8), "plain_ray": ("plain Ray", 1.0)}
        yield from throughput_figures("ray_pinned", what, times_s, others)


CASES = {case.__name__: case for case in (ray_hops, ray_offload, ray_pinned)}
