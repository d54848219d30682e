"""Loads updated incrementally, against their definition."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import offload_problems
from trisect.scheduler.offload.load_annealing import DeviceLoads
from trisect.scheduler.offload.offload_instance import make_instance
from trisect.scheduler.offload.offload_value import device_loads
from trisect.scheduler.problem.problem import Problem


@settings(max_examples=60)
@given(offload_problems("throughput", training=True), st.randoms(use_true_random=False))
def test_incremental_loads_match_their_definition(problem: Problem, random: Random) -> None:
    instance = make_instance(problem, contract=False)
    state = DeviceLoads(instance, [0] * instance.count)
    for _ in range(20):
        group, target = random.randrange(instance.count), random.randrange(instance.devices)
        if target >= instance.hosts and instance.acc_time[group] == float("inf"):
            continue
        if state.where[group] != target:
            state.move(group, target, *state.change(group, target))
        expected = device_loads(problem, instance.to_placement(state.where))
        assert state.load == pytest.approx([expected[d] for d in instance.device_ids])
