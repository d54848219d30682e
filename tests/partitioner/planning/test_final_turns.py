"""Contenders are ranked by what they took in the same rounds, and a split has to be faster than the noise."""

from __future__ import annotations

from typing import cast

import pytest

from trisect.partitioner.planning.candidate_placements import CandidatePlacement
from trisect.partitioner.planning.final_turns import MeasuredContender, ranked
from trisect.runtime.plans.plan import Plan


def contender(value_s: float, turns_s: list[float | None], device: str = "") -> MeasuredContender:
    return MeasuredContender(cast("Plan", None), cast("CandidatePlacement", None), value_s, device, turns_s)


@pytest.mark.parametrize(
    ("split_s", "alone_s", "wins"),
    [
        ([0.9] * 8, [1.0] * 8, True),
        ([0.985] * 8, [1.0] * 8, False),  # less than the least noise
        ([0.9, 1.8, 0.9, 1.8], [1.0, 2.0, 1.0, 2.0], True),  # slow rounds slow both
        ([0.7, 1.3, 0.7, 1.3, 0.7, 1.3, 0.9], [1.0] * 7, False),  # too noisy
        ([0.96, 0.96, None, 0.96, 0.96], [1.0, 1.0, 1.0, 1.0, None], False),  # too few rounds of both
    ],
)
def test_a_split_wins_only_beyond_the_noise(
    split_s: list[float | None], alone_s: list[float | None], wins: bool
) -> None:
    alone, split = contender(1.0, alone_s, "cpu:one"), contender(0.5, split_s)
    ranking = ranked([split, alone])
    assert ranking.contenders[0] is (split if wins else alone)
    assert ranking.noise is not None


def test_first_runs_at_other_times_do_not_decide() -> None:
    # The machine became slower before the turns: who did not take part looks faster than it is.
    alone, other = contender(1.0, [2.0] * 8, "cpu:one"), contender(1.5, [], "gpu:one")
    split, early = contender(1.0, [1.96] * 8), contender(1.2, [])
    assert ranked([early, split, other, alone]).contenders == (alone, other, early, split)


def test_without_turns_the_first_runs_decide() -> None:
    alone, near, split = contender(1.0, [], "cpu:one"), contender(0.97, []), contender(0.9, [])
    ranking = ranked([alone, near, split])
    assert ranking.contenders == (split, alone, near)
    assert ranking.noise is None


def test_without_a_device_alone_the_fastest_split_wins() -> None:
    slow, fast = contender(1.0, []), contender(0.9, [])
    assert ranked([slow, fast]).contenders == (fast, slow)
