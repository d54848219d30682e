"""The search for pipelines: linear orders, the dynamic programme over downsets, and CP-SAT where that is too large."""

from __future__ import annotations

from math import inf
from random import Random

from ...problem.search_time_limit import TimeLimit
from ..cp_models import improve_loads
from ..offload_instance import OffloadInstance
from ..packing_bound import load_bound
from ..search_state import ROUND_SHARES, SearchState, largest_load
from .downsets import best_chain
from .gradient_pipeline import ordered_by_gradients
from .pipeline_chain import MAX_ORDERS, best_intervals, depth_first_order

_ORDERS = 12


def search_pipelines(instance: OffloadInstance, clock: TimeLimit, random: Random) -> SearchState:
    """Return the best pipeline found in the time, with a bound."""
    state = SearchState(inf, None, load_bound(instance), "load")
    if instance.gradient_order:
        state = state.with_placement(*_pipeline_by_gradients(instance, clock, random))
    state = state.with_placement(*best_chain_of_orders(instance, random, clock, _ORDERS))
    if not state.is_proven:
        known = state.value if state.where is not None else _upper_bound(instance)
        finished, better_value, better = best_chain(instance, known, clock)
        if better is not None:
            state = state.with_placement(better_value, better)
        if finished:
            return state.with_bound(state.value, "downsets")
        if state.where is not None and not clock.is_over():
            proving = clock.seconds * ROUND_SHARES[-1][-1]
            seed = random.randrange(2**31)
            better, proven = improve_loads(
                instance, state.where, state.value, state.bound, clock, proving, seed, contiguous=True
            )
            state = state.with_bound(proven, "CP-SAT").with_placement(largest_load(instance, better), better)
    for _ in range(MAX_ORDERS):
        if state.is_proven or clock.is_over():
            break
        improved = best_intervals(instance, depth_first_order(instance, random), state.value)
        if improved is not None:
            state = state.with_placement(*improved)
    return state


def _pipeline_by_gradients(
    instance: OffloadInstance, clock: TimeLimit, random: Random
) -> tuple[float, list[int] | None]:
    """Return the best pipeline that respects the order of gradients, where there are some without forward tasks."""
    ordered, number = ordered_by_gradients(instance)
    value, where = best_chain_of_orders(ordered, random, clock, _ORDERS)
    _, value, better = best_chain(ordered, value if where is not None else _upper_bound(ordered), clock)
    where = better if better is not None else where
    return (inf, None) if where is None else (value, [where[n] for n in number])


def best_chain_of_orders(
    instance: OffloadInstance, random: Random, clock: TimeLimit, orders: int
) -> tuple[float, list[int] | None]:
    """Return the best pipeline of some orders, all but the first random, with its largest load."""
    value, where = inf, None
    for i in range(orders):
        if where is not None and clock.is_over():
            break
        pipeline = best_intervals(instance, depth_first_order(instance, random if i else None), value)
        if pipeline is not None:
            value, where = pipeline
    return value, where


def _upper_bound(instance: OffloadInstance) -> float:
    """Return a value above any largest load."""
    times = (t for row in (instance.acc_time, instance.host_time) for t in row if t < inf)
    return 1.0 + sum(times) + 2 * sum(net.cost for net in instance.nets)
