"""Corrections recover factors that terms share, and their variance says how far that can be relied on."""

from __future__ import annotations

import random
from math import exp, log

import numpy as np
import pytest

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.term_corrections import CorrectionPrior, MeasuredSum, TermCorrections

KINDS = ("conv dense", "pool", "move", "border", "product")
PRIOR = CorrectionPrior()


def term(kind: str, size: float) -> CostTerm:
    return CostTerm(kind, (("bytes", size),))


def base_s(terms: list[CostTerm]) -> np.ndarray:
    return np.array([1e-6 * exp(dict(t.sizes)["bytes"] / 4) for t in terms])


def drawn(rng: np.random.Generator, terms: list[CostTerm]) -> np.ndarray:
    """Return logarithms of factors out of the prior."""
    covariance = TermCorrections(PRIOR).covariance(terms)
    return rng.multivariate_normal(np.zeros(len(terms)), covariance)


def test_a_slower_machine_is_recognised_from_other_kinds_of_operators() -> None:
    rows = [MeasuredSum((term(kind, 8.0),), 3 * float(base_s([term(kind, 8.0)])[0]), 0.03) for kind in KINDS[:4]]
    known = TermCorrections.of(rows, base_s, CorrectionPrior(device=0.5))
    other = [term("product", 12.0)]
    assert 2 < exp(known.means(other)[0]) < 3.2
    assert known.covariance(other)[0, 0] < 0.6 * TermCorrections(CorrectionPrior(device=0.5)).covariance(other)[0, 0]


def test_similar_sizes_share_more_than_others_of_the_kind() -> None:
    known = TermCorrections.of(
        [MeasuredSum((term("pool", 8.0),), 4 * float(base_s([term("pool", 8.0)])[0]), 0.03)], base_s
    )
    same, near, far, else_ = known.means([term("pool", 8.0), term("pool", 9.0), term("pool", 20.0), term("move", 8.0)])
    assert log(4) * 0.97 < same < log(4) * 1.01
    assert same > near > far > else_ > 0


def test_a_measured_sum_is_predicted_within_its_noise() -> None:
    terms = tuple(term(kind, size) for kind in KINDS for size in (6.0, 9.0))
    time_s = 1.7 * float(base_s(list(terms)).sum())
    known = TermCorrections.of([MeasuredSum(terms, time_s, 0.02)], base_s)
    assert float((base_s(list(terms)) * np.exp(known.means(terms))).sum()) == pytest.approx(time_s, rel=0.03)


def test_intervals_contain_what_they_promise() -> None:
    rng, picks = np.random.default_rng(0), random.Random(0)
    terms = [term(kind, float(size)) for kind in KINDS for size in range(5, 15)]
    inside = []
    for _ in range(60):
        truth = dict(zip(terms, drawn(rng, terms), strict=True))
        sums = []
        for _ in range(6):
            some = tuple(picks.sample(terms, 8))
            total_s = sum(float(base_s([t])[0]) * exp(truth[t]) for t in some)
            sums.append(MeasuredSum(some, total_s * exp(rng.normal(0, 0.03)), 0.03))
        known = TermCorrections.of(sums, base_s, PRIOR)
        asked = picks.sample(terms, 8)
        parts_s = base_s(asked) * np.exp(known.means(asked))
        true_s = sum(float(base_s([t])[0]) * exp(truth[t]) for t in asked)
        deviation = float(np.sqrt(parts_s @ known.covariance(asked) @ parts_s)) / parts_s.sum()
        inside.append(abs(log(true_s / parts_s.sum())) <= 1.645 * deviation)
    assert 0.8 <= np.mean(inside) <= 0.98


def test_nothing_measured_corrects_nothing() -> None:
    known = TermCorrections.of([], base_s)
    assert known.means([term("pool", 8.0)]).tolist() == [0.0]
    assert known.covariance([term("pool", 8.0)])[0, 0] == pytest.approx(
        PRIOR.device**2 + PRIOR.kind**2 + PRIOR.similar**2 + PRIOR.term**2
    )
