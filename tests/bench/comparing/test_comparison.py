"""The best result by each objective, and those that are not significantly different."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.comparing.comparisons import DEVICES, synthetic_comparison, write_model
from trisect.bench.comparing.candidates import Candidate
from trisect.bench.comparing.comparison import Comparison, results_of
from trisect.bench.comparing.interleaved_measurement import (
    ContenderConfig,
    ContenderMeasurements,
    InterleavedMeasurement,
)

MEASURED = {
    # Quick and hungry, slow and frugal, and one in between that streams well.
    "quick": ContenderMeasurements(
        ((1.0,),) * 6, (1.0,) * 6, peak_bytes=900, energies_j=(9.0, 8.0, 9.5, 9.0, 9.0, 9.0), ok=True
    ),
    "frugal": ContenderMeasurements(((4.0,),) * 6, (0.25,) * 6, peak_bytes=800, energies_j=(2.0,) * 6, ok=True),
    "wide": ContenderMeasurements(
        ((2.0,),) * 6, (3.0, 3.5, 3.0, 2.5, 3.0, 3.0), peak_bytes=100, energies_j=(9.2,) * 6, ok=True
    ),
}


def ranked(objective: Any, measured: dict[str, ContenderMeasurements] = MEASURED) -> list[str]:
    candidates = [
        Candidate(name, contender=ContenderConfig(name, name, "_plan", Path(), DEVICES[:1]))
        for name in sorted(measured)
    ]
    return [
        r.name
        for r in results_of(candidates, InterleavedMeasurement(measured, 6, 1.0, None, False), DEVICES, objective)
    ]


def test_each_objective_has_its_own_order() -> None:
    assert ranked("latency") == ["quick", "wide", "frugal"]
    assert ranked("throughput") == ["wide", "quick", "frugal"]
    assert ranked("energy") == ["frugal", "quick", "wide"]
    assert ranked("memory") == ["wide", "frugal", "quick"]


def test_what_was_not_measured_comes_behind_what_was() -> None:
    silent = replace(MEASURED["frugal"], energies_j=())
    assert ranked("energy", MEASURED | {"frugal": silent}) == ["quick", "wide", "frugal"]


@pytest.fixture
def synthetic(tmp_path: Path) -> Comparison:
    return synthetic_comparison(write_model(tmp_path / "m.onnx"), [], energy=True)


def names(comparison: Comparison) -> list[str]:
    return [result.name for result in comparison.ties]


def test_ties_are_of_what_is_compared(synthetic: Comparison) -> None:
    """Latencies lie 1 ms apart with intervals of 3 %, energies 5 mJ with intervals of 20 mJ."""
    assert names(synthetic) == []
    *others, best = synthetic.results[:5]
    by_energy = replace(
        synthetic,
        objective="energy",
        results=(replace(best, best=True), *(replace(other, best=False) for other in reversed(others))),
    )
    # The intervals of the others begin at 25, 30, 35 and 40 mJ.
    for high_j, expected in ((0.041, 4), (0.036, 3), (0.031, 2), (0.024, 0)):
        first = replace(best, best=True, energy_high_j=high_j)
        result = names(replace(by_energy, results=(first, *by_energy.results[1:])))
        assert result == ["exact", "opclass", "heft", "auto"][:expected]


def test_throughput_turns_round_into_a_cost(synthetic: Comparison) -> None:
    cost = synthetic.results[0].cost("throughput")
    assert cost is not None
    assert (cost.value, cost.low, cost.high) == pytest.approx((0.002, 0.002 / 1.1, 0.002 / 0.9))
    assert synthetic.is_measured
    uncounted = replace(synthetic.results[0], energy_j=None)
    assert not replace(synthetic, objective="energy", results=(uncounted,)).is_measured
