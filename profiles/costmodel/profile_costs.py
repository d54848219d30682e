"""Costs derived from a measured profile.

The time of an operator is modelled as a constant plus a term in its operations plus a term in its bytes: a line with
non-negative coefficients is fitted to the measured points of the operator's class, and corrected monotonically so that
it passes near each point. Between sizes the correction is interpolated; beyond the largest and smallest it stays
constant. An operator that was measured itself has a curve of its own; a control-flow operator costs what the operators
of its body cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from math import inf
from statistics import geometric_mean
from typing import Self

import numpy as np

from trisect.runtime.errors import ProfileMissing

from ..stored.profile_data import DeviceProfile, Link, Point, Profile
from .call_costs import WakeupCosts
from .costs import Costs
from .device_model import DeviceModel
from .link_cost import LinkCost
from .memory_need import MemoryNeed, memory_need
from .op_features import OpClass, OpFeatures

_REMEDY = "run `trisect profile`"
_SUBSTITUTES = {OpClass.CONTROL_FLOW: OpClass.ELEMENTWISE}
"""Classes without an operator case of their own: a loop of unknown body is costed as an elementwise operator."""
_TOLERANCE = 1e-9
"""Differences between sums of squared relative errors below this are rounding."""


class ProfileCosts(Costs):
    """Costs derived from a profile and, for some devices, from cost models of whole segments.

    Parameters
    ----------
    profile : Profile
    models : mapping of str to DeviceModel, optional
        By device id.
    drifts : mapping of str to float, optional
        Device id -> factor by which its times have grown since it was measured.
    """

    def __init__(
        self,
        profile: Profile,
        models: Mapping[str, DeviceModel] | None = None,
        drifts: Mapping[str, float] | None = None,
    ) -> None:
        self._profile = profile
        self._models = dict(models or {})
        self._drifts = {device_id: factor for device_id, factor in (drifts or {}).items() if factor != 1.0}
        # Cost models follow what is measured of a model at present.
        self._scales: Mapping[str, float] = {key: f for key, f in self._drifts.items() if key not in self._models}
        self._links: dict[tuple[str, str], Link] = {(link.source, link.target): link for link in profile.links}
        self._curves: dict[tuple[str, OpClass, str], CostCurve] = {}

    @property
    def is_measured(self) -> bool:
        return self._profile.provenance.source == "measured"

    @property
    def scales(self) -> Mapping[str, float]:
        return self._scales

    @property
    def models(self) -> Mapping[str, DeviceModel]:
        return self._models

    def with_models(self, models: Mapping[str, DeviceModel]) -> Self:
        changed = copy(self)
        changed._models = {**self._models, **models}
        return changed

    def scaled(self, scales: Mapping[str, float]) -> Self:
        scaled = copy(self)
        scaled._scales = dict(scales)
        return scaled

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        return self._scales.get(device_id, 1.0) * self._unscaled_s(features, device_id)

    def _unscaled_s(self, features: OpFeatures, device_id: str) -> float:
        device = self._device(device_id)
        if features.body:
            trip_s = sum(self._unscaled_s(inner, device_id) for inner in features.body)
            return features.trips * trip_s + device.node_overhead_s
        size_bytes = features.bytes_read + features.bytes_written
        if features.op_class is OpClass.SHAPE or (features.flops == 0 and size_bytes == 0):
            return device.node_overhead_s
        op_class = _SUBSTITUTES.get(features.op_class, features.op_class)
        key = (device_id, op_class, features.op_type)
        if key not in self._curves:
            points = [point for point in device.points if point.op_class is op_class]
            own = [point for point in points if point.op_type == features.op_type]
            if not points:
                if any(case.partition(":")[0] == op_class.value for case in device.refused):
                    return inf
                raise ProfileMissing(f"no profile of {op_class.value} operators on {device_id}", remedy=_REMEDY)
            self._curves[key] = CostCurve(own if len(own) > 1 else points)
        return max(self._curves[key].time_s(features.flops, size_bytes), device.node_overhead_s)

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        link = self._links.get((src_id, dst_id))
        if link is None:
            raise ProfileMissing(f"no profile of the link from {src_id} to {dst_id}", remedy=_REMEDY)
        return LinkCost(link.latency_s, link.bandwidth_bytes_per_s or inf)

    def call_overhead_s(self, device_id: str) -> float:
        return self._device(device_id).call_overhead_s * self._drifts.get(device_id, 1.0)

    def wakeup_costs(self) -> WakeupCosts | None:
        devices = self._profile.devices
        warm = {key: self.call_overhead_s(key) for key in devices}
        cold = {
            key: sorted(
                (point.idle_s, warm[key] + point.extra_s * self._drifts.get(key, 1.0)) for point in device.wakeups
            )
            for key, device in devices.items()
        }
        return WakeupCosts(warm, cold) if any(cold.values()) else None

    def memory_needs(self) -> dict[str, MemoryNeed]:
        needs = {key: memory_need(device) for key, device in self._profile.devices.items()}
        return {key: need for key, need in needs.items() if need is not None}

    def slowdowns(self, executor: str = "threads") -> dict[tuple[str, str], float]:
        slowdowns: dict[tuple[str, str], list[float]] = {}
        for row in self._profile.contention:
            if row.executor == executor:
                slowdowns.setdefault((row.device, row.beside), []).append(row.slowdown)
        return {pair: geometric_mean(values) for pair, values in slowdowns.items()}

    def _device(self, device_id: str) -> DeviceProfile:
        device = self._profile.devices.get(device_id)
        if device is None:
            raise ProfileMissing(f"no profile for {device_id}", remedy=_REMEDY)
        return device


class CostCurve:
    """Time as a monotonic function of operations and bytes, fitted to measured points.

    Examples
    --------
    >>> sizes = (1000, 4000, 16000)
    >>> line = [Point(f"matvec:{n}", OpClass.MATVEC, "MatMul", 2.0 * n, 4 * n, 1e-6 + n * 1e-9) for n in sizes]
    >>> round(CostCurve(line).time_s(2.0 * 8000, 32000) * 1e6, 3)
    9.0
    """

    def __init__(self, points: list[Point]) -> None:
        table = np.array([(1.0, p.flops, float(p.size_bytes)) for p in points])
        times = np.array([p.time_s for p in points])
        self._coefficients = _fit(table, times)
        line = table @ self._coefficients
        order = np.argsort(line, kind="stable")
        self._log_line = np.log(line[order])
        self._log_times = _isotonic(np.log(times[order]))

    def time_s(self, flops: float, size_bytes: int) -> float:
        """Return the seconds of an operator; never less for more operations or bytes."""
        line = float(np.array((1.0, flops, float(size_bytes))) @ self._coefficients)
        if line <= 0:
            return 0.0
        log_line = float(np.log(line))
        inside = min(max(log_line, self._log_line[0]), self._log_line[-1])
        return float(np.exp(np.interp(inside, self._log_line, self._log_times) + log_line - inside))


def _isotonic(values: np.ndarray) -> np.ndarray:
    """Return the nearest non-decreasing sequence (pool adjacent violators).

    Examples
    --------
    >>> _isotonic(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, few), (high, more) = blocks[-2:]
            blocks[-2:] = [((low * few + high * more) / (few + more), few + more)]
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])


def _fit(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the non-negative least squares fit of relative errors, by enumerating the seven sets of columns.

    Of sets that fit equally well the first wins, and the constant alone comes last: the curve of a single point must
    still scale with the size.
    """
    weighted = table / times[:, None]
    best, best_error = np.array((float(np.median(times)), 0.0, 0.0)), np.inf
    for columns in ((1,), (2,), (0,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        part = weighted[:, columns]
        scale = np.abs(part).max(axis=0)
        if not scale.all():
            continue
        coefficients = np.linalg.lstsq(part / scale, np.ones(len(times)), rcond=None)[0] / scale
        fitted = part @ coefficients
        error = float(((fitted - 1.0) ** 2).sum())
        if (coefficients >= 0).all() and (fitted > 0).all() and error + _TOLERANCE < best_error:
            best, best_error = np.zeros(table.shape[1]), error
            best[list(columns)] = coefficients
    return best
