"""Costs derived from a profile pass near its points, extrapolate linearly, and are never invented."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.profiles.costmodel.profile_costs import CostCurve, ProfileCosts
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.errors import ProfileMissing

PROVENANCE = Provenance("measured", "host", "cpu", "Linux x86_64", "2026-01-01T00:00:00+00:00", {"ort": "1"}, 0.1)


def work(op_class: OpClass, flops: float, size_bytes: int, op_type: str = "Op") -> OpFeatures:
    return OpFeatures(op_type, op_class, flops, size_bytes, 0, 0, "float32")


def roofline(flops: float, size_bytes: float) -> float:
    return 2e-6 + flops / 1e11 + size_bytes / 2e10


def points(op_class: OpClass, op_type: str = "Op", factor: float = 1.0) -> list[Point]:
    return [
        Point(f"{op_class.value}:{op_type}:{f}:{b}", op_class, op_type, float(f), b, factor * roofline(f, b))
        for f, b in ((10**5, 10**5), (10**6, 10**5), (10**7, 10**6), (10**8, 10**6), (10**9, 10**7))
    ]


def profile(result: list[Point], refused: dict[str, str] | None = None) -> Profile:
    device = DeviceProfile("cpu:a", "A", "1", 1e-5, 1e-6, tuple(result), refused or {})
    other = DeviceProfile("cpu:b", "B", "1", 2e-5, 1e-6)
    links = (Link("cpu:a", "cpu:b", 1e-5, 1e9), Link("cpu:b", "cpu:a", 3e-5, None))
    return Profile(PROVENANCE, "float32", {"cpu:a": device, "cpu:b": other}, links)


def test_measured_points_are_reproduced():
    for point in points(OpClass.MATMUL):
        assert CostCurve(points(OpClass.MATMUL)).time_s(point.flops, point.size_bytes) == pytest.approx(
            point.time_s, rel=1e-3
        )


@pytest.mark.parametrize(("flops", "size_bytes"), [(3e6, 300_000), (5e8, 4_000_000), (1e11, 10**9), (1e3, 1_000)])
def test_interpolation_and_extrapolation_are_linear(flops, size_bytes):
    assert CostCurve(points(OpClass.MATMUL)).time_s(flops, size_bytes) == pytest.approx(
        roofline(flops, size_bytes), rel=0.02
    )


def test_an_outlier_has_a_local_effect_and_keeps_the_curve_monotonic():
    noisy = points(OpClass.MATMUL)
    noisy[0] = Point("noisy", OpClass.MATMUL, "Op", noisy[0].flops, noisy[0].size_bytes, 5 * noisy[0].time_s)
    curve = CostCurve(noisy)
    assert noisy[1].time_s <= curve.time_s(1e5, 10**5) <= noisy[0].time_s
    assert curve.time_s(1e8, 10**6) == pytest.approx(roofline(1e8, 1e6), rel=0.05)
    assert curve.time_s(1e11, 10**9) == pytest.approx(roofline(1e11, 1e9), rel=0.35)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**12), st.integers(1, 10**10), st.floats(1e-7, 10.0)),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.integers(0, 10**13),
    st.integers(0, 10**11),
)
@settings(max_examples=200)
def test_any_points_give_a_positive_finite_time(rows, flops, size_bytes):
    curve = CostCurve([Point(str(i), OpClass.NORM, "Op", float(f), b, t) for i, (f, b, t) in enumerate(rows)])
    time_s = curve.time_s(float(flops), size_bytes)
    assert math.isfinite(time_s)
    assert time_s >= 0
    assert CostCurve([Point("x", OpClass.NORM, "Op", 0.0, 10, 1e-6)]).time_s(0.0, 0) >= 0
    assert curve.time_s(2.0 * flops, size_bytes) >= time_s * (1 - 1e-9)
    assert curve.time_s(float(flops), 2 * size_bytes) >= time_s * (1 - 1e-9)


def test_a_measured_operator_is_costed_by_its_own_points():
    result = points(OpClass.DATA_MOVEMENT, "Concat") + points(OpClass.DATA_MOVEMENT, "Transpose", factor=50.0)
    costs = ProfileCosts(profile(result))
    times = {
        op: costs.node_time_s(work(OpClass.DATA_MOVEMENT, 1e7, 10**6, op), "cpu:a")
        for op in ("Concat", "Transpose", "Pad")
    }
    assert times["Transpose"] == pytest.approx(50 * roofline(1e7, 1e6), rel=0.01)
    assert times["Concat"] == pytest.approx(roofline(1e7, 1e6), rel=0.01)
    assert times["Concat"] < times["Pad"] < times["Transpose"]


def test_minimal_operators_cost_the_node_overhead():
    costs = ProfileCosts(profile(points(OpClass.MATMUL)))
    assert costs.node_time_s(work(OpClass.SHAPE, 3, 72), "cpu:a") == 1e-6
    assert costs.node_time_s(work(OpClass.DATA_MOVEMENT, 0, 0, "Reshape"), "cpu:a") == 1e-6
    assert costs.call_overhead_s("cpu:b") == 2e-5


def test_unmeasured_costs_are_errors_and_refused_operators_cost_infinity():
    costs = ProfileCosts(profile(points(OpClass.MATMUL), {"recurrent:lstm:16x128": "no kernel"}))
    with pytest.raises(ProfileMissing, match=r"conv operators on cpu:a; run `trisect profile`"):
        costs.node_time_s(work(OpClass.CONV, 1e6, 10**5), "cpu:a")
    with pytest.raises(ProfileMissing, match="npu:x"):
        costs.node_time_s(work(OpClass.MATMUL, 1e6, 10**5), "npu:x")
    with pytest.raises(ProfileMissing, match="npu:x"):
        costs.call_overhead_s("npu:x")
    assert costs.node_time_s(work(OpClass.RECURRENT, 1e6, 10**5), "cpu:a") == math.inf


def test_transfers_follow_latency_and_bandwidth():
    costs = ProfileCosts(profile([]))
    assert costs.link("cpu:a", "cpu:b").time_s(10**6) == pytest.approx(1e-5 + 1e-3)
    assert costs.link("cpu:b", "cpu:a").time_s(10**9) == 3e-5  # by reference
    with pytest.raises(ProfileMissing, match="link from cpu:a to npu:x"):
        costs.link("cpu:a", "npu:x")


def test_a_single_point_still_scales_with_the_work():
    compute = CostCurve([Point("x", OpClass.MATMUL, "Op", 1e6, 1000, 1e-4)])
    assert compute.time_s(1e9, 1000) == pytest.approx(0.1, rel=1e-6)
    memory = CostCurve([Point("x", OpClass.DATA_MOVEMENT, "Op", 0.0, 1000, 1e-4)])
    assert memory.time_s(0.0, 10**6) == pytest.approx(0.1, rel=1e-6)


def test_a_noiseless_curve_is_strictly_increasing():
    curve = CostCurve(points(OpClass.MATMUL))
    times = [curve.time_s(flops, 10**6) for flops in np.logspace(5, 11, 30)]
    assert all(a < b for a, b in itertools.pairwise(times))


def test_a_loop_costs_its_body_times_its_trips():
    costs = ProfileCosts(profile(points(OpClass.MATMUL)))
    inner = work(OpClass.MATMUL, 1e8, 10**6)
    loop = OpFeatures("Loop", OpClass.CONTROL_FLOW, 8e8, 8 * 10**6, 0, 0, "float32", (inner,), trips=8)
    assert costs.node_time_s(loop, "cpu:a") == pytest.approx(8 * costs.node_time_s(inner, "cpu:a") + 1e-6)
