"""Cases about streams: predicted and measured throughput of plans over two engines on the same cores.

All plans of one real model are streamed interleaved; what counts is their order and the error of each prediction.
Without the contention of engines, a second engine would be predicted to double the throughput.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np

from trisect.device_data import with_device_data
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import PlanRequest
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session

from .handmade_plans import device, model_path, random_input, temporary_folder
from .runtime_figure import RuntimeFigure

_MODEL, _SHAPES = "ch_PP-OCRv4_det_infer.onnx", {"x.0": 1, "x.2": 320, "x.3": 320}
_DEVICES = ("cpu:ort", "cpu:openvino")
_STRATEGIES = ("single:cpu:ort", "single:cpu:openvino", "balanced", "opclass", "heft")
_ITEMS, _WINDOW, _ROUNDS, _TURNS = 16, 4, 5, 3
_DIFFERENT_RATIO = 1.1
"""Plans whose measured rates differ by a smaller factor are not ranked."""


def streams(models: Path) -> Iterator[RuntimeFigure]:
    """Compare predicted and measured throughput of plans of several strategies, in some turns."""
    path = model_path(models, _MODEL)
    predicted: dict[str, list[float]] = defaultdict(list)
    measured: dict[str, list[float]] = defaultdict(list)
    agreed: list[bool] = []
    for _ in range(_TURNS):
        # Predicted and measured within a minute: the machine's speed changes by half.
        plans, rates = _turn(path)
        for name, plan in plans.items():
            predicted[name].append(plan.predicted.throughput_hz)
            measured[name].append(rates[name])
        agreed += [
            (predicted[a][-1] - predicted[b][-1]) * (rates[a] - rates[b]) > 0
            for a, b in itertools.combinations(plans, 2)
            if max(rates[a], rates[b]) > _DIFFERENT_RATIO * min(rates[a], rates[b])
        ]
    detail = {f"{name}_{kind}_hz": statistics.median(table[name]) for name in predicted for kind, table in
              (("predicted", predicted), ("measured", measured))}  # fmt: skip
    log_errors = [abs(log(p / m)) for name in predicted for p, m in zip(predicted[name], measured[name], strict=True)]
    what = f"throughput of {len(predicted)} plans of rapidocr det over two engines on the same cores:"
    share = sum(agreed) / len(agreed) if agreed else 1.0
    error = float(np.exp(statistics.median(log_errors)) - 1)
    yield RuntimeFigure("streams", f"{what} pairs in the predicted order", share, "of 1", 0.8, False, detail)
    yield RuntimeFigure("streams", f"{what} median error", error, "of 1", 0.1, True, detail)


def _turn(path: Path) -> tuple[dict[str, Plan], dict[str, float]]:
    """Split with each strategy, stream the different plans, and return them with their items per second."""
    with temporary_folder() as folder:
        plans = {
            name: _split(path, name, Path(folder) / str(index), Path(folder) / "calibrations.json")
            for index, name in enumerate(_STRATEGIES)
        }
        # Equal placements are measured once.
        distinct = {tuple(sorted(plan.placement.items())): name for name, plan in reversed(plans.items())}
        plans = {name: plans[name] for name in distinct.values()}
        return plans, _rates_hz(plans)


def _split(path: Path, strategy: str, folder: Path, calibrations: Path) -> Plan:
    """Split as `trisect.split` does, but calibrate anew: machines change their speed within hours."""
    request = PlanRequest(path, tuple(device(name) for name in _DEVICES), strategy, "throughput", _SHAPES)
    return with_device_data(request, lambda data: make_plan(request, replace(data, calibrations=calibrations), folder))


def _rates_hz(plans: Mapping[str, Plan]) -> dict[str, float]:
    """Return the items per second of each plan, measured interleaved."""
    feeds = {"x": random_input(*[_SHAPES.get(f"x.{axis}", 3) for axis in range(4)])}
    times: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(_ROUNDS):
        for name, plan in plans.items():
            # Loaded anew each time: idle engines of other plans would disturb.
            with Session(plan) as session:
                for _ in session.stream([feeds] * _WINDOW, window=_WINDOW):
                    pass
                start_s = time.perf_counter()
                for _ in session.stream([feeds] * _ITEMS, window=_WINDOW):
                    pass
                if turn:
                    times[name].append(time.perf_counter() - start_s)
    return {name: _ITEMS / statistics.median(times_s) for name, times_s in times.items()}


CASES = {case.__name__: case for case in (streams,)}
