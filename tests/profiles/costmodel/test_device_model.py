"""A cost model must recover known costs, also of segments that are not in its training data."""

from __future__ import annotations

import random
from math import exp

import numpy as np
import pytest

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.regression import _base_s
from trisect.profiles.stored.segment_store import (
    MeasuredSegment,
)
from trisect.runtime.errors import ProfileMissing


def true_time_s(term: CostTerm) -> float:
    """Return the true time of a term: a power of its sizes, much less for fused operators."""
    sizes = dict(term.sizes)
    shift = {"elementwise": 0.4, "elementwise behind": -2.5, "conv dense": 0.8, "call": 3.0}[term.kind]
    return _base_s(term) * exp(shift + 0.15 * (sizes.get("flops", 15.0) - 15.0))


def random_segment(rng: random.Random) -> tuple[CostTerm, ...]:
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
    return MeasuredSegment(terms, sum(map(true_time_s, terms)) * exp(rng.gauss(0, noise)), noise)


@pytest.fixture(scope="module")
def model() -> DeviceModel:
    rng = random.Random(1)
    return DeviceModel.fit([measured(random_segment(rng), rng) for _ in range(400)])


def test_unseen_segments_are_predicted(model: DeviceModel) -> None:
    rng = random.Random(2)
    errors = []
    for _ in range(100):
        terms = random_segment(rng)
        errors.append(model.time_s(terms) / sum(map(true_time_s, terms)) - 1)
    assert np.median(np.abs(errors)) < 0.03
    assert np.percentile(np.abs(errors), 95) < 0.12


def test_extrapolation_is_linear_in_the_work() -> None:
    """Fitted powers diverge for sizes a thousand times larger or smaller."""
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


def test_fused_operators_cost_less_than_separate_ones(model: DeviceModel) -> None:
    alone = CostTerm("elementwise", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))
    behind = CostTerm("elementwise behind", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))
    assert model.time_s([behind]) < 0.3 * model.time_s([alone])


def test_unseen_kinds_are_less_certain(model: DeviceModel) -> None:
    usual, strange = random_segment(random.Random(3)), (CostTerm("recurrent", (("steps", 4.0),), (), 1e7, 1e5),)
    assert model.estimate(strange).deviation > 3 * model.estimate(usual).deviation


def test_an_outlier_does_not_affect_other_predictions() -> None:
    rng = random.Random(4)
    rows = [measured(random_segment(rng), rng) for _ in range(300)]
    rows[0] = MeasuredSegment(rows[0].terms, rows[0].time_s * 50, 0.0)
    with_outlier = DeviceModel.fit(rows)
    errors = [with_outlier.time_s(row.terms) / row.time_s - 1 for row in rows[1:]]
    assert np.median(np.abs(errors)) < 0.05


def test_measured_operators_correct_the_model_and_similar_operators(model: DeviceModel) -> None:
    odd = CostTerm("conv dense", (("flops", 18.0), ("inputs", 3.0)), ("odd",), exp(18.0), 1e5)
    real_s = 4 * model.time_s([odd])
    refined = model.refined([MeasuredSegment((odd,), real_s, 0.01, "plan")])
    assert refined.time_s([odd]) == pytest.approx(real_s, rel=0.05)
    assert refined.estimate([odd]).deviation < 0.4 * model.estimate([odd]).deviation
    both = [odd, CostTerm("call")]
    assert model.time_s(both) < 0.5 * refined.time_s(both) < refined.time_s(both) < 1.2 * (real_s + model.time_s(both))
    near = CostTerm("conv dense", (("flops", 17.8), ("inputs", 3.0)), ("odd",), exp(17.8), 1e5)
    far = CostTerm("elementwise", (("bytes", 12.0),), ("op=Relu",), 0.0, exp(12.0))
    factors = [refined.time_s([term]) / model.time_s([term]) for term in (odd, near, far)]
    assert factors[0] > factors[1] > 1.5 > factors[2] >= 1.0


def test_the_errors_of_segments_with_the_same_operators_are_correlated(model: DeviceModel) -> None:
    conv = CostTerm("conv dense", (("flops", 18.0), ("inputs", 3.0)), (), exp(18.0), 1e5)
    light = CostTerm("elementwise", (("bytes", 14.0),), ("op=Relu",), 0.0, exp(14.0))
    joint = model.joint_estimate([(conv,), (conv,), (light,)])
    deviations = np.sqrt(np.diag(joint.covariance))
    correlation = joint.covariance / np.outer(deviations, deviations)
    assert correlation[0, 1] > 0.9 > correlation[0, 2] > 0


def test_too_few_segments_are_refused() -> None:
    with pytest.raises(ProfileMissing, match="3 measured segments of cpu:a are too few"):
        DeviceModel.fit([MeasuredSegment((CostTerm("call"),), 1e-5, 0.0)] * 3, "cpu:a")
