"""What a profile lacks is said in one sentence for each device."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import msgspec

from trisect.measurement_gaps import measurement_gaps
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.measuring.operator_cases import standard_cases
from trisect.profiles.stored.profile_data import (
    Contention,
    DeviceProfile,
    MemoryPoint,
    Point,
    Profile,
    Provenance,
)
from trisect.runtime.engines import find_devices

ORT, OPENVINO = find_devices("cpu:ort,cpu:openvino")
POINTS = tuple(Point(case.name, case.op_class, case.op_type, 1.0, 1, 1.0) for case in standard_cases())
COMPLETE = DeviceProfile(
    "cpu:ort", ORT.name, "1", 1e-5, 1e-6, POINTS[1:], {POINTS[0].case: "no kernel"}, memory=(MemoryPoint("", 1, 1, 1),)
)
PAIRS = tuple(
    Contention(*pair, executor, OpClass.MATMUL, 1.0, 2.0)
    for pair in permutations((ORT.id, OPENVINO.id))
    for executor in ("threads", "processes")
)
PROFILE = Profile(
    Provenance("measured", "", "", "", "", {}, None),
    "float32",
    {"cpu:ort": COMPLETE, "cpu:openvino": msgspec.structs.replace(COMPLETE, device="cpu:openvino")},
    contention=PAIRS,
)


def test_nothing_is_said_of_a_complete_profile():
    assert measurement_gaps(PROFILE, [ORT, OPENVINO]) == []


def test_each_gap_is_named():
    short = msgspec.structs.replace(COMPLETE, points=POINTS[3:], memory=(), slowed=1.8)
    profile = replace(PROFILE, devices={"cpu:ort": short}, contention=PAIRS[:1])
    assert measurement_gaps(profile, [ORT, OPENVINO]) == [
        f"not measured of cpu:ort: 2 of {len(POINTS)} operator cases, memory; its predictions are less certain",
        "cpu:ort became 1.8 times slower while it was measured; its predictions are less certain",
        "cpu:openvino is not measured",
        "not measured of cpu:ort and cpu:openvino: how they slow each other in processes; throughputs of both together "
        "are predicted too high",
    ]
