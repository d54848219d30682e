"""Verifies plans before they are published, and remembers the results: the same segments are verified once.

A plan runs beside the whole model in a child process with limits, see `trisect.runtime.checks.plan_check`. Results are
cached by the model, the segments, and the versions of the engines that run them.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trisect.runtime.checks.plan_check import check_plan
from trisect.runtime.checks.whole_model import REFERENCES
from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.device import Device
from trisect.runtime.engines import capabilities, discover
from trisect.runtime.errors import TrisectError
from trisect.runtime.files.cache_files import read_cache, update_cache
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.plans.check_result import PlanCheck, skipped
from trisect.runtime.plans.plan import Plan

RESULTS_FILE = "verified.json"
"""Beside the cache of supported operators."""
_SCHEMA = 1
_RESULTS_MAX = 2000
_PREDICTED_MAX_S = 20.0
_TIME_LIMIT_S, _RUNS_IN_LIMIT, _WEIGHT_BYTES_PER_S = 40.0, 20, 50e6


@dataclass(frozen=True)
class PlanVerifier:
    """Verifies plans of one model.

    Parameters
    ----------
    model : Path
        The model that is split.
    cache : Path
        File of earlier results.
    tolerance : float, optional
        As for `trisect.runtime.verification.verify`.
    """

    model: Path
    cache: Path
    tolerance: float | None = None

    def check(self, plan: Plan) -> PlanCheck:
        """Return whether a plan computes what the whole model does; at no cost where that is known."""
        devices = plan.used_devices
        reason = _obstacle(plan, devices)
        if reason:
            return skipped(reason)
        key = self._key(plan, devices)
        results = self._read()
        if key in results:
            return results[key]
        weight_bytes = plan.weights.size_bytes if plan.weights is not None else 0
        limit_s = _TIME_LIMIT_S + _RUNS_IN_LIMIT * plan.predicted.latency_s + weight_bytes / _WEIGHT_BYTES_PER_S
        try:
            result = call_isolated(check_plan, limit_s, Path(plan.folder), self.model.absolute(), self.tolerance)
        except ChildProcessFailed as error:
            result = skipped(f"on generated inputs, {error.message}")
        except (TrisectError, MemoryError) as error:
            result = skipped(str(error) or "there is not enough memory")
        self._add(key, result)
        return result

    def _key(self, plan: Plan, devices: Sequence[Device]) -> str:
        versions = {device.id: (device.name, device.engine, device.engine_version) for device in devices}
        references = [device.engine_version for device in discover() if device.id in REFERENCES]
        parts = (
            _SCHEMA, plan.model_sha256, sorted(plan.shapes.items()), self.tolerance,
            [(segment.sha256, segment.device, versions[segment.device]) for segment in plan.segments],
            plan.weights.sha256 if plan.weights is not None else "", references,
        )  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _read(self) -> dict[str, PlanCheck]:
        return read_cache(self.cache, dict[str, PlanCheck], "the results", "plans are verified again") or {}

    def _add(self, key: str, result: PlanCheck) -> None:
        # JSON has no infinity, which is the difference of results of other shapes.
        stored = replace(result, max_abs=_finite(result.max_abs), max_rel=_finite(result.max_rel))

        def merged() -> bytes:
            newest = dict(list((self._read() | {key: stored}).items())[-_RESULTS_MAX:])
            return msgspec.json.format(msgspec.json.encode(newest), indent=1)

        update_cache(self.cache, merged, "results of verifications")


def _finite(number: float) -> float:
    return number if math.isfinite(number) else sys.float_info.max


def _obstacle(plan: Plan, devices: Sequence[Device]) -> str:
    """Return why a plan cannot be run here; empty where it can."""
    elsewhere = [device.id for device in devices if device.node or device.reality == "published"]
    if elsewhere:
        return f"{', '.join(elsewhere)} cannot be run from here"
    idle = [device.id for device in devices if not capabilities(device).computes]
    if idle:
        return f"{', '.join(idle)} computes nothing"
    if plan.predicted.latency_s > _PREDICTED_MAX_S:
        return f"one run is predicted to take {plan.predicted.latency_s:.3g} s"
    return ""
