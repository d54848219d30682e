"""Cases about streams: whether plans over two engines on the same cores are as fast as their predictions say.

Each plan of one real model is streamed in turns with all others; what counts is the order, and how far each prediction
is off. Without what engines do to each other every second engine would seem to double the throughput.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np

from trisect.api import with_device_data
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

from .runtime_overhead import Measured, device, image, model_in, workspace

_MODEL, _SHAPES = "ch_PP-OCRv4_det_infer.onnx", {"x.0": 1, "x.2": 320, "x.3": 320}
_DEVICES = ("cpu:ort", "cpu:openvino")
_STRATEGIES = ("single:cpu:ort", "single:cpu:openvino", "balanced", "opclass", "heft")
_ITEMS, _WINDOW, _ROUNDS = 16, 4, 5
_APART = 1.1
"""Plans whose measured rates differ by less are in no order."""


def streams(models: Path) -> Iterator[Measured]:
    """Plans by several strategies, predicted and measured."""
    path = model_in(models, _MODEL)
    with workspace() as folder:
        plans = {
            name: _split(path, name, Path(folder) / str(index), Path(folder) / "looked at.json")
            for index, name in enumerate(_STRATEGIES)
        }
        # Placements that are equal would only be measured twice.
        distinct = {tuple(sorted(plan.placement.items())): name for name, plan in reversed(plans.items())}
        plans = {name: plans[name] for name in distinct.values()}
        found = _rates_hz(plans)
    predicted = {name: plan.predicted.throughput_hz for name, plan in plans.items()}
    agreed = [
        (predicted[a] - predicted[b]) * (found[a] - found[b]) > 0
        for a, b in itertools.combinations(plans, 2)
        if max(found[a], found[b]) > _APART * min(found[a], found[b])
    ]
    rates = {f"{name}_{kind}_hz": table[name] for name in plans for kind, table in
             (("predicted", predicted), ("measured", found))}  # fmt: skip
    off = [abs(log(predicted[name] / found[name])) for name in plans]
    what = f"throughput of {len(plans)} plans of rapidocr det over two engines on the same cores:"
    share = sum(agreed) / len(agreed) if agreed else 1.0
    error = float(np.exp(statistics.median(off)) - 1)
    yield Measured("streams", f"{what} pairs in the predicted order", share, "of 1", 0.8, False, rates)
    yield Measured("streams", f"{what} median error", error, "of 1", 0.25, True, rates)


def _split(path: Path, strategy: str, folder: Path, looks: Path) -> Plan:
    """As `trisect.split`; but the whole model is looked at anew, because machines change their pace within hours."""
    request = PlanRequest(path, tuple(device(name) for name in _DEVICES), strategy, "throughput", _SHAPES)
    return with_device_data(request, lambda data: make_plan(request, replace(data, calibrations=looks), folder))


def _rates_hz(plans: Mapping[str, Plan]) -> dict[str, float]:
    """Items a second of each, in turns."""
    feeds = {"x": image(*[_SHAPES.get(f"x.{axis}", 3) for axis in range(4)])}
    times: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(_ROUNDS):
        for name, plan in plans.items():
            # Loaded anew each time: the idle engines of other plans would be in the way.
            with Session(plan) as session:
                for _ in session.stream([feeds] * _WINDOW, window=_WINDOW):
                    pass
                begun_s = time.perf_counter()
                for _ in session.stream([feeds] * _ITEMS, window=_WINDOW):
                    pass
                if turn:
                    times[name].append(time.perf_counter() - begun_s)
    return {name: _ITEMS / statistics.median(found) for name, found in times.items()}


CASES = {case.__name__: case for case in (streams,)}
