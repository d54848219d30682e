"""A cost model must find the costs of a world whose rules are known, also of segments that it has not seen."""

from __future__ import annotations

import json
import random
from math import exp
from pathlib import Path

import numpy as np
import pytest

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.op_instance import OpInstance, OpTensor
from trisect.profiles.costmodel.regression import _base_s
from trisect.profiles.costmodel.segment_terms import segment_terms
from trisect.profiles.stored.segment_store import (
    MeasuredSegment,
    SegmentStore,
    load_segments,
    save_segments,
    segment_key,
)
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidProfile, ProfileMissing

CPU = Device("cpu:a", "cpu", "a", "A", engine_version="1")


def world_s(term: CostTerm) -> float:
    """What a summand really takes: a power of its sizes, far less for what is fused."""
    sizes = dict(term.sizes)
    shift = {"elementwise": 0.4, "elementwise behind": -2.5, "conv dense": 0.8, "call": 3.0}[term.kind]
    return _base_s(term) * exp(shift + 0.15 * (sizes.get("flops", 15.0) - 15.0))


def draw(rng: random.Random) -> tuple[CostTerm, ...]:
    terms = [CostTerm("call")]
    for _ in range(rng.randint(1, 8)):
        flops = rng.uniform(12, 20)
        if rng.random() < 0.5:
            terms.append(CostTerm("conv dense", (("flops", flops), ("inputs", rng.uniform(2, 6))), (), exp(flops), 1e5))
            if rng.random() < 0.5:
                terms.append(CostTerm("elementwise behind", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0)))
        else:
            size = rng.uniform(9, 14)
            terms.append(CostTerm("elementwise", (("bytes", size),), ("op=Relu",), 0.0, exp(size)))
    return tuple(terms)


def measured(terms: tuple[CostTerm, ...], rng: random.Random, noise: float = 0.03) -> MeasuredSegment:
    return MeasuredSegment(terms, sum(map(world_s, terms)) * exp(rng.gauss(0, noise)), noise)


@pytest.fixture(scope="module")
def model() -> DeviceModel:
    rng = random.Random(1)
    return DeviceModel.fit([measured(draw(rng), rng) for _ in range(400)])


def test_segments_never_seen_are_predicted(model: DeviceModel) -> None:
    rng = random.Random(2)
    off = []
    for _ in range(100):
        terms = draw(rng)
        off.append(model.time_s(terms) / sum(map(world_s, terms)) - 1)
    assert np.median(np.abs(off)) < 0.03
    assert np.percentile(np.abs(off), 95) < 0.12


def test_far_beyond_what_was_measured_it_goes_on_as_the_work_does() -> None:
    """Powers bend: of what is a thousand times larger or smaller they would say anything."""
    rng = random.Random(6)
    sizes = [rng.uniform(12, 15) for _ in range(200)]
    terms = [
        (CostTerm("move", (("bytes", n), ("width", rng.uniform(3, 6))), ("op=Concat",), 0.0, exp(n)),) for n in sizes
    ]
    rows = [MeasuredSegment(t, (t[0].size_bytes / 1e10 + 1e-6) * exp(rng.gauss(0, 0.05)), 0.05) for t in terms]
    model = DeviceModel.fit(rows)
    for far in (1.0, 22.0):
        term = CostTerm("move", (("bytes", far), ("width", 0.0)), ("op=Concat",), 0.0, exp(far))
        assert 0.2 < model.time_s([term]) / (term.size_bytes / 1e10 + 1e-6) < 5


def test_what_is_fused_is_not_priced_as_if_alone(model: DeviceModel) -> None:
    alone = CostTerm("elementwise", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))
    behind = CostTerm("elementwise behind", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))
    assert model.time_s([behind]) < 0.3 * model.time_s([alone])


def test_it_is_less_sure_of_what_it_has_not_seen_the_like_of(model: DeviceModel) -> None:
    usual, strange = draw(random.Random(3)), (CostTerm("recurrent", (("steps", 4.0),), (), 1e7, 1e5),)
    assert model.estimate(strange).deviation > 3 * model.estimate(usual).deviation


def test_one_bad_measurement_does_not_spoil_the_rest() -> None:
    rng = random.Random(4)
    rows = [measured(draw(rng), rng) for _ in range(300)]
    rows[0] = MeasuredSegment(rows[0].terms, rows[0].time_s * 50, 0.0)
    spoilt = DeviceModel.fit(rows)
    off = [spoilt.time_s(row.terms) / row.time_s - 1 for row in rows[1:]]
    assert np.median(np.abs(off)) < 0.05


def test_measured_operators_are_reported_as_measured_and_correct_similar_ones(model: DeviceModel) -> None:
    odd = CostTerm("conv dense", (("flops", 18.0), ("inputs", 3.0)), ("odd",), exp(18.0), 1e5)
    real_s = 4 * model.time_s([odd])
    wiser = model.refined([MeasuredSegment((odd,), real_s, 0.01, "plan")])
    assert wiser.estimate([odd]).basis == "measured"
    assert wiser.time_s([odd]) == real_s
    both = [odd, CostTerm("call")]
    assert model.time_s(both) < 0.5 * wiser.time_s(both) < wiser.time_s(both) < 1.2 * (real_s + model.time_s(both))
    assert wiser.estimate(both).deviation < model.estimate(both).deviation
    other = [CostTerm("elementwise", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))]
    assert wiser.time_s(other) == pytest.approx(model.time_s(other))


def test_too_few_segments_teach_nothing() -> None:
    with pytest.raises(ProfileMissing, match="3 measured segments of cpu:a are too few"):
        DeviceModel.fit([MeasuredSegment((CostTerm("call"),), 1e-5, 0.0)] * 3, "cpu:a")


# --- what a segment is made of ------------------------------------------------------------------------------------


def tensor(name: str, *shape: int, constant: bool = False) -> OpTensor:
    return OpTensor(name, shape, 4 * int(np.prod(shape)), constant)


def conv(name: str, source: OpTensor, target: OpTensor) -> OpInstance:
    weight = tensor(f"{name}.w", target.shape[1], source.shape[1], 3, 3, constant=True)
    return OpInstance(name, "Conv", (source, weight), (target,), {"group": 1, "strides": [1, 1]}, 1e6, 1000)


X, Y, Z = (tensor(name, 1, 16, 8, 8) for name in "xyz")


def kinds(instances: list[OpInstance], leaving: list[str]) -> list[str]:
    return [term.kind for term in segment_terms(instances, leaving)]


def test_an_activation_behind_a_convolution_is_another_matter_than_one_alone() -> None:
    relu = OpInstance("r", "Relu", (Y,), (Z,))
    together = kinds([conv("c", X, Y), relu], ["z"])
    assert "elementwise behind" in together
    assert kinds([relu], ["z"]) == ["elementwise", "border", "border", "call"]
    # What also leaves the segment has to be there before the activation.
    assert "elementwise behind" not in kinds([conv("c", X, Y), relu], ["y", "z"])


def test_layouts_are_converted_at_boundaries_and_not_between_convolutions() -> None:
    both = kinds([conv("a", X, Y), conv("b", Y, Z)], ["z"])
    assert both.count("layout in") == both.count("layout out") == 1
    apart = kinds([conv("a", X, Y)], ["y"]) + kinds([conv("b", Y, Z)], ["z"])
    assert apart.count("layout in") == apart.count("layout out") == 2


def test_a_weight_that_is_only_dequantised_costs_nothing_when_run() -> None:
    whole = OpInstance("d", "DequantizeLinear", (tensor("w8", 4, 4, constant=True),), (tensor("w", 4, 4),))
    product = OpInstance("m", "MatMul", (tensor("x", 2, 4), tensor("w", 4, 4)), (tensor("y", 2, 4),), {}, 64.0)
    assert "quantise" not in kinds([whole, product], ["y"])


# --- on disk ------------------------------------------------------------------------------------------------------


def test_segments_come_back_from_disk_and_belong_to_the_engine_they_were_measured_on(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [measured(draw(rng), rng) for _ in range(5)]
    path = tmp_path / "s.json"
    assert load_segments(path) == SegmentStore()
    save_segments(SegmentStore().adding([CPU], {"cpu:a": rows}, 2, 3.0), path)
    segments = load_segments(path)
    assert segments.of(CPU) == tuple(rows)
    assert (segments.networks, segments.spent_s) == (2, 3.0)
    updated = Device("cpu:a", "cpu", "a", "A", engine_version="2")
    assert segments.of(updated) == ()
    assert segments.adding([updated], {"cpu:a": rows[:1]}, 3, 1.0).of(updated) == tuple(rows[:1])


def test_categorical_features_keep_their_name_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = (MeasuredSegment((CostTerm("border", (("bytes", 1.0),), ("in",), 0.0, 4.0),), 1e-5, 0.0),)
    save_segments(SegmentStore().adding([CPU], {"cpu:a": rows}, 1, 1.0), path)
    (term,) = json.loads(path.read_text())["terms"]
    assert term == {"kind": "border", "sizes": [["bytes", 1.0]], "marks": ["in"], "flops": 0.0, "size_bytes": 4.0}
    assert load_segments(path).of(CPU) == rows


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"schema":2', '"schema":99'),
        lambda text: json.dumps({**json.loads(text), "devices": {"cpu:a": [[[999], 1.0, 0.0, "plan"]]}}),
        lambda text: json.dumps({**json.loads(text), "devices": {"cpu:a": [[[0], -1.0, 0.0, "plan"]]}}),
        lambda text: "[]",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(change, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = [MeasuredSegment((CostTerm("call"),), 1e-5, 0.0)]
    save_segments(SegmentStore().adding([CPU], {"cpu:a": rows}, 1, 1.0), path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InvalidProfile) as caught:
        load_segments(path)
    assert "\n" not in str(caught.value)


def test_a_key_tells_work_apart() -> None:
    rng = random.Random(6)
    segments = [draw(rng) for _ in range(50)]
    assert len({segment_key(terms) for terms in segments}) == len(set(segments))
