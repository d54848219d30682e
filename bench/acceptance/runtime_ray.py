"""Cases about Ray: trisect's way on it, with tensors in shared memory, against plain Ray, with tensors in its store.

Plain Ray is what Ray's own documentation shows: an actor for each segment, the reference to what one gives handed to
the next, as many items in flight as the window lets through. The actors run the same segments on the same engines.
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

from .kernel_cutter import Cutter
from .runtime_calls import whole
from .runtime_cuts import DETECTOR, TURNS, between_s, real_model, streamed_s, throughputs
from .runtime_overhead import Measured, chain, device, in_turns, ratio, told_in_turns, workspace

_MIB = 1 << 20
_STORE_BYTES = 1 << 30
_STAGES, _STAGE_S = 3, 0.010
_ITEMS, _WINDOW = 24, 4
_PLAIN_WINDOW = 8
ONE = LoadOptions(threads=1)


class PlainActor:
    """A segment as an actor of plain Ray."""

    def __init__(self, file: str, where: Device, options: LoadOptions, cores: Sequence[int]) -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        self._module = load(Path(file), where, options)

    def run(self, names: Sequence[str], wanted: Sequence[str], *arrays: np.ndarray) -> Any:
        """The outputs, each an object of Ray's."""
        made = self._module.run(dict(zip(names, arrays, strict=True)))
        return made[wanted[0]] if len(wanted) == 1 else tuple(made[name] for name in wanted)


class PlainRay:
    """A plan's segments as actors of plain Ray."""

    def __init__(self, connection: RayConnection, plan: Plan, options: LoadOptions) -> None:
        self._ray = connection.ray
        self._plan = plan
        where = {found.id: found for found in plan.devices}
        cores = assign_cores(list(plan.devices), options.threads, side_by_side=True)
        remote = self._ray.remote(num_cpus=0)(PlainActor)
        self._actors = [
            remote.remote(str(Path(plan.folder) / s.file), where[s.device], options, cores[s.device])
            for s in plan.segments
        ]

    def start(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """References to an item's outputs."""
        known: dict[str, Any] = dict(feeds)
        for actor, segment in zip(self._actors, self._plan.segments, strict=True):
            names, wanted = ([spec.name for spec in specs] for specs in (segment.inputs, segment.outputs))
            made = actor.run.options(num_returns=len(wanted)).remote(names, wanted, *[known[name] for name in names])
            known.update(zip(wanted, made if len(wanted) > 1 else [made], strict=True))
        return [known[spec.name] for spec in self._plan.outputs]

    def stream(self, feeds: Mapping[str, np.ndarray], count: int, window: int) -> list[float]:
        """Many items, so many of them in flight; gives when each was there."""
        flying: deque[list[Any]] = deque()
        done_s: list[float] = []

        def land() -> None:
            self._ray.get(flying.popleft())
            done_s.append(time.perf_counter())

        for _ in range(count):
            if len(flying) == window:
                land()
            flying.append(self.start(feeds))
        while flying:
            land()
        return done_s

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)


def ray_hops(models: Path) -> Iterator[Measured]:
    """What one hop more adds to an item: between actors in shared memory, and by way of Ray's object store."""
    for size_mib, rounds in ((1, 200), (64, 24)):
        elements = size_mib * _MIB // 4
        feeds = {"t0": np.ones(elements, np.float32)}
        pair = [device("cpu:ort"), device("cpu:openvino")]
        with connect(store_bytes=_STORE_BYTES) as connection, workspace() as folder:
            plan = chain([*pair, pair[0]], elements, Path(folder))
            gaps, plain_s = [], []
            with Session(plan, "ray", ONE) as session:
                for _ in range(rounds):
                    session.run(feeds)
                    ran = [event for event in session.trace.events if event.kind == "compute"]
                    gaps += [after.start_s - before.end_s for before, after in itertools.pairwise(ran)]
                computing_s = sum(event.duration_s for event in ran)
            plain = PlainRay(connection, plan, ONE)
            for took_s in in_turns({"plain": lambda: connection.ray.get(plain.start(feeds))}, rounds // 4)["plain"]:  # noqa: B023
                # Four ways: to the first, twice between actors, and back. Computing is left out.
                plain_s.append(max(took_s - computing_s, 0.0) / 4)
            plain.close()
        gap_s, other_s = statistics.median(gaps), statistics.median(plain_s)
        detail = {"hop_us": gap_s * 1e6, "plain_ray_us": other_s * 1e6}
        what = f"a hop of {size_mib} MiB, ray, same node"
        if size_mib == 1:
            yield Measured("ray_hops", what, gap_s * 1e6, "us", 100.0, True, detail)
        else:
            yield Measured("ray_hops", what, size_mib * _MIB / gap_s / 1e9, "GB/s", 8.0, False, detail)


def ray_offload(models: Path) -> Iterator[Measured]:
    """Three simulated stages of 10 ms that need no processor, as a pipeline against one after the other."""
    options = LoadOptions(extra={"run_s": _STAGE_S})
    feeds = {"t0": np.ones(64 * 1024, np.float32)}
    with connect(store_bytes=_STORE_BYTES) as connection, workspace() as folder:
        plan = chain(null_devices("npu", _STAGES), 64 * 1024, Path(folder))
        plain = PlainRay(connection, plan, options)
        with Session(plan, "ray", options) as session:
            calls = {
                "in_turn": lambda: [session.run(feeds) for _ in range(60)],
                "pipeline": lambda: [None for _ in session.stream(itertools.repeat(feeds, 60), window=6)],
                "plain_ray": lambda: plain.stream(feeds, 60, _PLAIN_WINDOW),
            }
            times = in_turns(calls, 3)
        plain.close()
    detail = {f"{name}_items_per_s": 60 / statistics.median(found) for name, found in times.items()}
    what = "3 simulated stages of 10 ms as a pipeline, ray"
    yield Measured("ray_offload", what, ratio(times["in_turn"], times["pipeline"]), "x", 2.7, False, detail)


def ray_pinned(models: Path) -> Iterator[Measured]:
    """Balanced splits over two actors of one core each, against one core alone, and against plain Ray's pipeline."""
    for model in (DETECTOR, TURNS):
        path, shapes = real_model(models, model)
        with connect(store_bytes=_STORE_BYTES) as connection, workspace() as folder, contextlib.ExitStack() as opened:
            cutter = Cutter(path, shapes, 2, Path(folder), threads=1)
            plan, feeds = cutter.most_balanced(), cutter.feeds
            plain = PlainRay(connection, plan, ONE)
            opened.callback(plain.close)
            split = opened.enter_context(Session(plan, "ray", ONE))
            alone = opened.enter_context(Session(whole(path, "cpu:openvino"), "ray", replace(ONE, shapes=shapes)))
            taken: dict[str, Callable[[], float]] = {
                "split": partial(streamed_s, split, feeds, _ITEMS, _WINDOW),
                "alone": partial(streamed_s, alone, feeds, _ITEMS, 2),
                "plain_ray": lambda: between_s(plain.stream(feeds, _ITEMS, _PLAIN_WINDOW)),  # noqa: B023
            }
            times_s = told_in_turns(taken, 4)
        what = f"{path.stem} over two actors of one core each"
        others = {"alone": ("one of them", 1.8), "plain_ray": ("plain Ray", 1.0)}
        yield from throughputs("ray_pinned", what, times_s, others)


CASES = {case.__name__: case for case in (ray_hops, ray_offload, ray_pinned)}
