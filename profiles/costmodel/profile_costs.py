"""Answers a planner's questions about cost out of a measured profile.

Within a class of operators, time is a start plus a part for the operations plus a part for the bytes: a line fitted to
the points with no negative part, then bent to pass near each of them, but never so far that more work would cost less.
Between sizes it interpolates; beyond them it goes on as the line does. An operator that was measured itself is judged
by its own points, any other by its class; one with a body costs what the operators in it do.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from math import inf
from statistics import geometric_mean
from typing import Self

import numpy as np

from trisect.runtime.errors import ProfileMissing

from ..measuring.memory_measurement import memory_need
from ..stored.profile_data import DeviceProfile, Link, Point, Profile
from .call_costs import Wakings
from .link_cost import LinkCost
from .op_features import MemoryNeed, OpClass, OpFeatures

_REMEDY = "run: trisect profile"
_STAND_INS = {OpClass.CONTROL_FLOW: OpClass.ELEMENTWISE}
"""Classes that have no operator of their own to measure: a loop whose body is not known is taken for small work."""
_EQUAL = 1e-9
"""Sums of squared relative errors nearer than this are the same."""


class ProfileCosts:
    """Costs out of a profile; see `Costs`.

    Parameters
    ----------
    profile : Profile
    """

    def __init__(self, profile: Profile, scales: Mapping[str, float] | None = None) -> None:
        self._profile = profile
        self.scales = dict(scales or {})
        """Device id -> what its operators take in the model at hand, as a share of what the profile says."""
        self._links: dict[tuple[str, str], Link] = {(link.source, link.target): link for link in profile.links}
        self._curves: dict[tuple[str, OpClass, str], Curve] = {}

    @property
    def is_measured(self) -> bool:
        """Whether the figures are of a machine at hand."""
        return self._profile.provenance.source == "measured"

    def scaled(self, scales: Mapping[str, float]) -> Self:
        """The same costs for a model whose operators take so much more or less."""
        changed = copy(self)
        changed.scales = dict(scales)
        return changed

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        """Time of one operator in a running segment; see `Costs.node_time_s`."""
        return self.scales.get(device_id, 1.0) * self._unscaled_s(features, device_id)

    def _unscaled_s(self, features: OpFeatures, device_id: str) -> float:
        device = self._device(device_id)
        if features.body:
            trip_s = sum(self._unscaled_s(inner, device_id) for inner in features.body)
            return features.trips * trip_s + device.node_overhead_s
        size_bytes = features.bytes_read + features.bytes_written
        if features.op_class is OpClass.SHAPE or (features.flops == 0 and size_bytes == 0):
            return device.node_overhead_s
        wanted = _STAND_INS.get(features.op_class, features.op_class)
        key = (device_id, wanted, features.op_type)
        if key not in self._curves:
            points = [point for point in device.points if point.op_class is wanted]
            own = [point for point in points if point.op_type == features.op_type]
            if not points:
                if any(case.partition(":")[0] == wanted.value for case in device.refused):
                    return float("inf")
                raise ProfileMissing(f"nobody measured {wanted.value} operators on {device_id}", remedy=_REMEDY)
            self._curves[key] = Curve(own if len(own) > 1 else points)
        return max(self._curves[key].time_s(features.flops, size_bytes), device.node_overhead_s)

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        """Cost of a link; see `Costs.link`."""
        link = self._links.get((src_id, dst_id))
        if link is None:
            raise ProfileMissing(f"nobody measured the link from {src_id} to {dst_id}", remedy=_REMEDY)
        return LinkCost(link.latency_s, link.bandwidth_bytes_per_s or inf)

    def call_overhead_s(self, device_id: str) -> float:
        """Fixed time of a segment's call; see `Costs.call_overhead_s`."""
        return self._device(device_id).call_overhead_s

    def wakings(self) -> Wakings | None:
        """What calls take behind others on the same cores; None where nobody measured that."""
        devices = self._profile.devices
        awake = {key: device.call_overhead_s for key, device in devices.items()}
        asleep = {
            key: sorted((waking.idle_s, awake[key] + waking.more_s) for waking in device.wakings)
            for key, device in devices.items()
        }
        return Wakings(awake, asleep) if any(asleep.values()) else None

    def memory_needs(self) -> dict[str, MemoryNeed]:
        """Device id -> what models take of its memory, for devices of which that was measured."""
        needs = {key: memory_need(device) for key, device in self._profile.devices.items()}
        return {key: need for key, need in needs.items() if need is not None}

    def slowdowns(self, executor: str = "threads") -> dict[tuple[str, str], float]:
        """How many times as long a device takes while another is at work; of pairs that nobody measured nothing.

        Parameters
        ----------
        executor : str
            How both are run.

        Returns
        -------
        dict
            Device and the one beside it -> the mean (of ratios) over the kinds of work that were measured.
        """
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._profile.contention:
            if row.executor == executor:
                found.setdefault((row.device, row.beside), []).append(row.slowdown)
        return {pair: geometric_mean(values) for pair, values in found.items()}

    def _device(self, device_id: str) -> DeviceProfile:
        device = self._profile.devices.get(device_id)
        if device is None:
            raise ProfileMissing(f"nobody measured the device {device_id}", remedy=_REMEDY)
        return device


class Curve:
    """Time as a function of operations and bytes, through measured points.

    Examples
    --------
    >>> sizes = (1000, 4000, 16000)
    >>> line = [Point(f"matvec:{n}", OpClass.MATVEC, "MatMul", 2.0 * n, 4 * n, 1e-6 + n * 1e-9) for n in sizes]
    >>> round(Curve(line).time_s(2.0 * 8000, 32000) * 1e6, 3)
    9.0
    """

    def __init__(self, points: list[Point]) -> None:
        table = np.array([(1.0, p.flops, float(p.size_bytes)) for p in points])
        times = np.array([p.time_s for p in points])
        self._parts = _fit(table, times)
        straight = table @ self._parts
        order = np.argsort(straight, kind="stable")
        self._places = np.log(straight[order])
        # Beyond the last point, and before the first, it goes on as the line does: the bend stays as it is.
        self._times = _rising(np.log(times[order]))

    def time_s(self, flops: float, size_bytes: int) -> float:
        """Seconds for that much work; more work never takes less."""
        straight = float(np.array((1.0, flops, float(size_bytes))) @ self._parts)
        if straight <= 0:
            return 0.0
        place = float(np.log(straight))
        inside = min(max(place, self._places[0]), self._places[-1])
        return float(np.exp(np.interp(inside, self._places, self._times) + place - inside))


def _rising(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that never falls: neighbours in the wrong order share their mean.

    Examples
    --------
    >>> _rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
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
    """Non-negative least squares of relative errors, by trying each set of columns: there are seven.

    Of sets that fit equally well the first wins, the start alone last: one point must still scale with the work.
    """
    weighted = table / times[:, None]
    best, best_error = np.array((float(np.median(times)), 0.0, 0.0)), np.inf
    for columns in ((1,), (2,), (0,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        part = weighted[:, columns]
        scale = np.abs(part).max(axis=0)
        if not scale.all():
            continue
        found = np.linalg.lstsq(part / scale, np.ones(len(times)), rcond=None)[0] / scale
        fitted = part @ found
        error = float(((fitted - 1.0) ** 2).sum())
        if (found >= 0).all() and (fitted > 0).all() and error + _EQUAL < best_error:
            best, best_error = np.zeros(table.shape[1]), error
            best[list(columns)] = found
    return best
