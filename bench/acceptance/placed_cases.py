"""ONNX's conformance suite as `split` places it: no case may give a wrong answer silently.

Each case is planned with several strategies over two engines, from their profile and from what value trials found out,
and run on its own inputs. A case that no device computes right is refused by name.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from trisect import api, device_data
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.profiles.capabilities.trial_feeds import is_random
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import TrisectError
from trisect.runtime.plans.plan import Plan
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.containers import unpack

from .conformance_cases import ConformanceCase, conformance_cases
from .onnx_backend import temporary_onnx_home

DEVICES = "cpu:ort,cpu:openvino"
STRATEGIES = ("auto", "roundrobin", "single:cpu:ort", "single:cpu:openvino")


@dataclass(frozen=True)
class PlacedOutcome:
    """The outcome of one case with one strategy."""

    name: str
    strategy: str
    result: Literal["right", "refused", "random", "wrong"]
    """``random``: the results differ from run to run by definition, and only dtypes and shapes were compared."""
    reason: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlacedResult:
    """Outcomes of all cases."""

    outcomes: tuple[PlacedOutcome, ...]

    @property
    def met(self) -> bool:
        """Whether no answer was wrong."""
        return not any(outcome.result == "wrong" for outcome in self.outcomes)

    def document(self) -> dict[str, Any]:
        """Return the result as plain values, with all wrong and refused cases."""
        counts = Counter((outcome.strategy, outcome.result) for outcome in self.outcomes)
        strategies = dict.fromkeys(outcome.strategy for outcome in self.outcomes)
        return {
            "promised": "no wrong answer",
            "met": self.met,
            "counts": {s: {result: n for (strategy, result), n in counts.items() if strategy == s} for s in strategies},
            "wrong": [outcome for outcome in self.outcomes if outcome.result == "wrong"],
            "refused": [outcome for outcome in self.outcomes if outcome.result == "refused"],
        }


def bench_placed_cases(
    every: int = 1, strategies: Sequence[str] = STRATEGIES, progress: Progress = no_progress
) -> PlacedResult:
    """Run the suite.

    Parameters
    ----------
    every : int
        Run only every Nth case of each kind, starting with the first.
    strategies : sequence of str
    progress : callable, optional
    """
    devices = tuple(api.usable_devices(DEVICES))
    outcomes: list[PlacedOutcome] = []

    def run_all(data: DeviceData) -> None:
        with temporary_onnx_home():
            cases = list(conformance_cases(every))
        for number, case in enumerate(cases):
            progress(number, len(cases), case.name)
            outcomes.extend(place_case(case, devices, replace(data, calibrations=None), strategies))

    device_data.with_device_data(PlanRequest(Path(), devices), run_all, progress)
    return PlacedResult(tuple(outcomes))


def place_case(
    case: ConformanceCase,
    devices: tuple[Device, ...],
    data: DeviceData,
    strategies: Iterable[str],
    *,
    verify: bool = True,
) -> Iterator[PlacedOutcome]:
    """Yield the outcome of a case with each strategy; `verify` as for `trisect.split`."""
    with tempfile.TemporaryDirectory(prefix="trisect-case-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(case.model, path)
        for strategy in strategies:
            request = PlanRequest(path, devices, strategy, shapes=case.shapes, verify=verify)
            try:
                plan = make_plan(request, data, Path(folder) / strategy.replace(":", "_"))
                reason = _mismatch(case, plan)
            except TrisectError as error:
                yield PlacedOutcome(case.name, strategy, "refused", error.message)
                continue
            used = tuple(segment.device for segment in plan.segments)
            right: Literal["right", "random"] = "random" if is_random(case.model) else "right"
            yield PlacedOutcome(case.name, strategy, "wrong" if reason else right, reason, used)


def _mismatch(case: ConformanceCase, plan: Plan) -> str:
    with Session(plan, options=LoadOptions(threads=1)) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in case.data_sets:
            outputs = session.run(case.feeds(data))
            values = [unpack(spec.dtype, outputs[spec.name]) for spec in plan.outputs]
            reason = _form_mismatch(values, data.expected) if is_random(case.model) else data.mismatch(values)
            if reason:
                return reason
    return ""


def _form_mismatch(values: Sequence[Any], expected: Sequence[Any]) -> str:
    for value, other in zip(values, expected, strict=True):
        if np.shape(value) != np.shape(other) or np.asarray(value).dtype != np.asarray(other).dtype:
            return "dtype or shape differ"
    return ""
