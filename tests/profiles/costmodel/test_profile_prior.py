"""Times of another machine are scaled by what both have measured, and never replace what was measured here."""

from __future__ import annotations

import pytest

from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_prior import with_prior
from trisect.profiles.stored.profile_data import DeviceProfile, Point, Profile, Provenance


def profile(host: str, points: dict[str, float], refused: tuple[str, ...] = ()) -> Profile:
    rows = tuple(
        Point(case, OpClass(case.partition(":")[0]), "Op", 1e6, 1000, time_s) for case, time_s in points.items()
    )
    device = DeviceProfile("cpu:a", "CPU", "1", 1e-5, 1e-6, rows, dict.fromkeys(refused, "no kernel"))
    return Profile(Provenance("measured", host, "", "", "", {}, None), "float32", {"cpu:a": device})


def test_only_missing_cases_are_added_scaled_by_their_class_or_else_by_all():
    own = profile("here", {"matmul:1": 2.0, "matmul:2": 8.0, "norm:1": 1.0}, refused=("norm:3",))
    other = profile(
        "there",
        {
            "matmul:1": 1.0,
            "matmul:2": 1.0,
            "matmul:3": 5.0,
            "norm:1": 2.0,
            "norm:3": 1.0,
            "conv:1": 10.0,
            "norm:2": 6.0,
        },
    )
    combined, added = with_prior(own, other)
    assert added == ("cpu:a",)
    times_s = {point.case: point.time_s for point in combined.devices["cpu:a"].points}
    assert times_s == pytest.approx(
        {"matmul:1": 2.0, "matmul:2": 8.0, "norm:1": 1.0, "matmul:3": 20.0, "norm:2": 3.0, "conv:1": 20.0}
    )
    assert combined.provenance == own.provenance


def test_nothing_is_added_without_common_cases_or_missing_ones():
    own = profile("here", {"matmul:1": 2.0})
    for points in ({"norm:1": 1.0}, {"matmul:1": 1.0}, {}):
        assert with_prior(own, profile("there", points)) == (own, ())
