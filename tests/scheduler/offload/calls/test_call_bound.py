"""The bound of the latency that solves the calls of a path."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.offload.offload_cases import best_of_all, offload_problems
from trisect.scheduler.offload.calls.call_bound import raise_path_bound
from trisect.scheduler.offload.calls.call_latency import latency
from trisect.scheduler.offload.calls.path_bound import best_path
from trisect.scheduler.offload.offload_instance import Net, OffloadInstance, OffloadStep, make_instance
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit


@settings(max_examples=40)
@given(offload_problems("latency"), st.booleans())
def test_nothing_beats_the_raised_bound(problem: Problem, contract: bool) -> None:
    instance = make_instance(problem, contract=contract)
    bound, path = best_path(instance)
    where = [0] * instance.count
    known = (latency(instance, where), where)
    raised = raise_path_bound(instance, path, known, TimeLimit(20), 20)
    assert bound - 1e-9 <= raised.bound <= best_of_all(problem) + 1e-6
    assert raised.value == pytest.approx(latency(instance, raised.where))
    assert raised.value <= known[0]


def test_what_a_call_cannot_hold_is_paid() -> None:
    """The call of the last two tasks pays for the result of the one beside them, 2, unless it holds that as well."""
    for size, bounds in ((4.0, (6.0, 8.0)), (3.0, (6.0, 8.0)), (2.0, (5.0, 5.0))):
        instance = _diamond(size)
        bound, path = best_path(instance)
        raised = raise_path_bound(instance, path, (inf, [0] * 4), TimeLimit(20), 9)
        assert path == (0, 1, 3)
        assert (bound, raised.bound) == pytest.approx(bounds)


def test_calls_that_are_not_solved_keep_their_bound() -> None:
    instance = _diamond(4.0)
    bound, path = best_path(instance)
    assert raise_path_bound(instance, path, (27.0, [0] * 4), TimeLimit(20), 0).bound == bound


def test_amounts_that_do_not_fit_into_64_bits() -> None:
    """With times and sizes of all magnitudes the bound stays one; tasks that cannot pay for themselves stay outside."""
    plain = _diamond(4.0)
    path = best_path(plain)[1]
    slow = replace(plain, acc_time=[1.0, 2.0, 1e30, 1.0])
    assert raise_path_bound(slow, path, (27.0, [0] * 4), TimeLimit(20), 9).bound == pytest.approx(8.0)
    large = replace(plain, size=[4e25] * 4, capacity=8e25)
    assert raise_path_bound(large, path, (27.0, [0] * 4), TimeLimit(20), 9).bound == pytest.approx(8.0)


def _diamond(size: float) -> OffloadInstance:
    steps = (
        OffloadStep(0, 9.0, 1.0, (), (1, 2)),
        OffloadStep(1, 9.0, 2.0, (0,), (3,)),
        OffloadStep(2, 0.0, 1.0, (0,), (3,)),
        OffloadStep(3, 9.0, 1.0, (1, 2), ()),
    )
    nets = [Net(0, (1, 2), 1.0), Net(1, (3,), 2.0), Net(2, (3,), 2.0)]
    groups = (("a",), ("b",), ("c",), ("d",))
    preds, succs = [[], [0], [0], [1, 2]], [[1, 2], [3], [3], []]
    device_ids = ("cpu:0", "npu:0", "npu:1")
    return OffloadInstance(
        groups, [9.0, 9.0, 0.0, 9.0], [1.0, 2.0, 1.0, 1.0], [size] * 4, nets, preds, succs, 1, 2, 8.0, device_ids, steps
    )
