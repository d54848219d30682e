"""The search for the least largest load without contiguous parts: annealing of clusters, then CP-SAT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from ..problem.search_time_limit import TimeLimit
from .coarsening import cluster, coarse_instance
from .cp_models import improve_loads
from .device_bound import device_bound
from .load_annealing import DeviceLoads, anneal
from .offload_instance import OffloadInstance
from .packing_bound import load_bound
from .pipelines.pipeline_search import best_chain_of_orders
from .search_state import PROVEN, ROUND_SHARES, SearchState, cluster_levels, largest_load, prove, restart_count
from .step_counts import load_steps

_FROM_BEST_SHARE = 0.3
"""Share of restarts that start from the best placement."""
_SAME_SETTINGS_SHARE = 0.5
"""Share of restarts with the settings of the first one, or of the best so far."""
_COARSE_SHARE = 0.75
"""Share of a restart's time for the coarse instance."""

_BOUND_SHARE = 0.1
"""Share of the time for the bound of one device."""
_BOUND_GAP_MIN = 0.03
"""Relative gap from which that bound is sought: below, CP-SAT finds better placements in that time."""


def search_loads(instance: OffloadInstance, clock: TimeLimit, random: Random) -> SearchState:
    """Return the placement with the least largest load found in the time, with a bound."""
    state = SearchState(inf, None, load_bound(instance), "load")
    state = state.with_placement(*best_chain_of_orders(instance, random, clock, 3))
    if state.where is None:
        where = first_fit(instance)
        if where is None:
            return state
        state = state.with_placement(max(DeviceLoads(instance, where).load), where)
    levels = cluster_levels(instance, state.bound)
    for number, (searching, proving) in enumerate(ROUND_SHARES):
        state = _anneal_restarts(instance, state, clock, clock.seconds * searching, levels, random)
        if number == 0 and state.value > state.bound * (1 + _BOUND_GAP_MIN) and not clock.is_over():
            bound = device_bound(instance, state.bound, state.value, clock, clock.seconds * _BOUND_SHARE, 0)
            state = state.with_bound(bound, "load with transfers")
        state = prove(improve_loads, largest_load, instance, state, clock, clock.seconds * proving, random)
    return state


def _anneal_restarts(
    instance: OffloadInstance,
    state: SearchState,
    clock: TimeLimit,
    seconds: float,
    levels: Sequence[float],
    random: Random,
) -> SearchState:
    """Anneal with restarts, each with other clusters and another cooling schedule."""
    restarts = restart_count(instance, seconds)
    settings, best_value = None, inf
    for _ in range(restarts):
        if state.where is None or state.is_proven or clock.is_over():
            break
        tried = (
            settings
            if settings is not None and random.random() < _SAME_SETTINGS_SHARE
            else _random_settings(levels, random)
        )
        value, better = _from_clusters(instance, state, random, clock, seconds / restarts, tried)
        if settings is None or value < best_value:
            settings, best_value = tried, value
        state = state.with_placement(value, better)
    return state


@dataclass(frozen=True)
class _RestartSettings:
    """Settings of one restart: the cost from which nets form clusters, and the cooling schedule."""

    min_cost: float
    power: int
    initial_temperature: float


def _random_settings(levels: Sequence[float], random: Random) -> _RestartSettings:
    return _RestartSettings(random.choice(levels), random.choice((4, 8, 12)), 10 ** random.uniform(-1, 0))


def _from_clusters(
    instance: OffloadInstance,
    state: SearchState,
    random: Random,
    clock: TimeLimit,
    seconds: float,
    settings: _RestartSettings,
) -> tuple[float, list[int]]:
    """Anneal clusters of groups, then single groups, from the best or from a random placement."""
    where = list(state.where or ())
    cluster_of = cluster(instance, settings.min_cost, state.bound)
    coarse = coarse_instance(instance, cluster_of)
    begin = None if random.random() < _FROM_BEST_SHARE else first_fit(coarse, random)
    if begin is None:
        begin = [0] * coarse.count
        for group, number in enumerate(cluster_of):
            begin[number] = where[group]
    if largest_load(coarse, begin) < inf:
        steps = load_steps(coarse, seconds * _COARSE_SHARE)
        _, coarse_where = anneal(
            coarse, begin, random, clock, steps, initial_temperature=settings.initial_temperature, power=settings.power
        )
        where = [coarse_where[number] for number in cluster_of]
    steps = load_steps(instance, seconds * (1 - _COARSE_SHARE))
    return anneal(instance, where, random, clock, steps, goal=state.bound * (1 + PROVEN), initial_temperature=0.1)


def first_fit(instance: OffloadInstance, random: Random | None = None) -> list[int] | None:
    """Return a placement within the memory limits: groups that need an accelerator first, the largest first.

    Each goes to the device with the least load; with a generator, to a random accelerator with room for it.
    """
    free = [inf] * instance.hosts + [instance.capacity] * instance.accelerators
    load = [0.0] * instance.devices
    where = [0] * instance.count
    for g in sorted(range(instance.count), key=lambda g: (instance.host_time[g] < inf, -instance.size[g])):
        options = [
            (load[d] + t, d)
            for d in range(instance.devices)
            if free[d] >= instance.size[g]
            and (t := instance.host_time[g] if d < instance.hosts else instance.acc_time[g]) < inf
        ]
        if not options:
            return None
        accelerators = [option for option in options if option[1] >= instance.hosts]
        chosen = random.choice(accelerators) if random is not None and accelerators else min(options)
        load[chosen[1]], where[g] = chosen
        free[where[g]] -= instance.size[g]
    return where
