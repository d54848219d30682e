"""The bound with transfers, against enumeration and on a chain written out."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.scheduler.offload.device_bound import device_bound, least_device_load
from trisect.scheduler.offload.load_search import first_fit
from trisect.scheduler.offload.offload_instance import Net, OffloadInstance, make_instance
from trisect.scheduler.offload.packing_bound import load_bound
from trisect.scheduler.offload.search_state import largest_load
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=25)
@given(offload_problems("throughput"))
def test_no_placement_is_below_the_bound(problem: Problem) -> None:
    instance = make_instance(problem)
    optimum = best_of_all(problem)
    where = first_fit(instance)
    for value in (optimum, optimum * 1.5, inf if where is None else largest_load(instance, where)):
        if value < inf:
            assert least_device_load(instance, value, TimeLimit(20), 2.0, 0) <= optimum + 1e-5 * max(1.0, value)


def test_a_boundary_of_the_share_is_paid() -> None:
    """Six tasks of one second, three accelerators; no host. Only the middle of the chain is cheap to cut."""
    nets = [Net(i, (i + 1,), cost) for i, cost in enumerate((2.0, 2.0, 0.25, 2.0, 2.0))]
    none: list[list[int]] = [[] for _ in range(6)]
    instance = OffloadInstance((("a",),) * 6, [inf] * 6, [1.0] * 6, [0.0] * 6, nets, none, none, 0, 3, 1e9, ())
    assert load_bound(instance) == pytest.approx(2.0)
    # Two tasks at an end cost two more at the cut; all three up to the cheap cut cost a quarter more.
    assert least_device_load(instance, 10.0, TimeLimit(20), 2.0, 0) == pytest.approx(3.25, rel=1e-5)
    assert device_bound(instance, 2.0, 10.0, TimeLimit(20), 2.0, 0) == pytest.approx(3.25, rel=1e-2)
