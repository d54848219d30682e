"""The anytime portfolio for the offload convention: constructions, searches, then proofs, within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Problem
from ..problem.search_time_limit import TimeLimit
from ..problem.solution import Proposal
from .call_latency import anneal_calls, latency
from .coarsening import cluster, coarse_instance
from .cp_models import improve_calls, improve_loads
from .downsets import best_chain
from .load_annealing import DeviceLoads, anneal
from .offload_instance import OffloadInstance, make_instance
from .packing_bound import load_bound
from .path_bound import path_bound
from .pipeline_chain import MAX_ORDERS, best_intervals, depth_first_order
from .step_counts import call_steps, load_steps

_PROVEN = 1e-6
_ORDERS = 12
_ROUND_SHARES = ((0.25, 0.25), (0.3, 0.4))
"""Fractions of the time for search and for proof, in alternation: an easy proof needs no long search. Their sum exceeds
one, as the solver's deterministic time passes faster than the clock."""
_RESTART_S_PER_GROUP = 0.012
"""Minimum time of a restart."""
_FROM_BEST_SHARE = 0.3
"""Share of restarts that start from the best placement."""
_SAME_SETTINGS_SHARE = 0.5
"""Share of restarts with the settings of the first one, or of the best so far."""
_MAX_LEVELS = 20
_MIN_CLUSTERS_PER_DEVICE = 8
_COARSE_SHARE = 0.75
"""Share of a restart's time for the coarse instance."""
_MAX_RESTARTS = 20


@dataclass(frozen=True)
class _SearchState:
    """The best placement so far, and the proven bound."""

    value: float
    where: list[int] | None
    bound: float
    bound_by: str

    @property
    def is_proven(self) -> bool:
        """Whether the placement is proven optimal."""
        return self.value <= self.bound * (1 + _PROVEN)

    def with_bound(self, bound: float, by: str) -> _SearchState:
        """Return the state with a bound, if it is higher."""
        return replace(self, bound=bound, bound_by=by) if bound > self.bound else self

    def with_placement(self, value: float, where: list[int] | None) -> _SearchState:
        """Return the state with a placement, if its value is lower."""
        return replace(self, value=value, where=where) if value < self.value else self


def solve_offload(problem: Problem, time_limit_s: float, seed: int) -> Proposal:
    """Return the best placement found in the time, with a bound.

    Raises
    ------
    InfeasibleProblem
        When no valid placement was found.
    """
    clock = TimeLimit(time_limit_s)
    instance = make_instance(problem)
    random = Random(seed)
    if problem.objective == "latency":
        state = _least_latency(instance, clock, random)
    elif problem.rules.contiguous:
        state = _contiguous(instance, clock, random)
    else:
        state = _anywhere(instance, clock, random)
    if state.where is None:
        raise InfeasibleProblem("no valid placement was found", remedy="allow more time or memory")
    bound = min(state.bound, state.value)
    return Proposal(instance.to_placement(state.where), bound, bound_by=state.bound_by, is_cut_short=clock.is_cut_short)


def _best_chain_of_orders(
    instance: OffloadInstance, random: Random, clock: TimeLimit, orders: int
) -> tuple[float, list[int] | None]:
    value, where = inf, None
    for i in range(orders):
        if where is not None and clock.is_over():
            break
        pipeline = best_intervals(instance, depth_first_order(instance, random if i else None), value)
        if pipeline is not None:
            value, where = pipeline
    return value, where


def _contiguous(instance: OffloadInstance, clock: TimeLimit, random: Random) -> _SearchState:
    state = _SearchState(inf, None, load_bound(instance), "load")
    state = state.with_placement(*_best_chain_of_orders(instance, random, clock, _ORDERS))
    if not state.is_proven:
        known = state.value if state.where is not None else _upper_bound(instance)
        finished, better_value, better = best_chain(instance, known, clock)
        if better is not None:
            state = state.with_placement(better_value, better)
        if finished:
            return state.with_bound(state.value, "downsets")
        if state.where is not None and not clock.is_over():
            proving = clock.seconds * _ROUND_SHARES[-1][-1]
            seed = random.randrange(2**31)
            better, proven = improve_loads(
                instance, state.where, state.value, state.bound, clock, proving, seed, contiguous=True
            )
            state = state.with_bound(proven, "CP-SAT").with_placement(_largest_load(instance, better), better)
    for _ in range(MAX_ORDERS):
        if state.is_proven or clock.is_over():
            break
        improved = best_intervals(instance, depth_first_order(instance, random), state.value)
        if improved is not None:
            state = state.with_placement(*improved)
    return state


def _upper_bound(instance: OffloadInstance) -> float:
    """Return a value above any largest load."""
    times = (t for row in (instance.acc_time, instance.host_time) for t in row if t < inf)
    return 1.0 + sum(times) + 2 * sum(net.cost for net in instance.nets)


def _anywhere(instance: OffloadInstance, clock: TimeLimit, random: Random) -> _SearchState:
    state = _SearchState(inf, None, load_bound(instance), "load")
    state = state.with_placement(*_best_chain_of_orders(instance, random, clock, 3))
    if state.where is None:
        where = first_fit(instance)
        if where is None:
            return state
        state = state.with_placement(max(DeviceLoads(instance, where).load), where)
    levels = _levels(instance, state.bound)
    for searching, proving in _ROUND_SHARES:
        state = _search_loads(instance, state, clock, clock.seconds * searching, levels, random)
        state = _prove(improve_loads, _largest_load, instance, state, clock, clock.seconds * proving, random)
    return state


def _prove(
    improve: Callable[..., tuple[list[int], float]],
    value_of: Callable[[OffloadInstance, list[int]], float],
    instance: OffloadInstance,
    state: _SearchState,
    clock: TimeLimit,
    seconds: float,
    random: Random,
) -> _SearchState:
    """Improve placement and bound by CP-SAT, unless the placement is proven optimal or time is up."""
    if not seconds or state.where is None or state.is_proven or clock.is_over():
        return state
    better, proven = improve(instance, state.where, state.value, state.bound, clock, seconds, random.randrange(2**31))
    return state.with_bound(proven, "CP-SAT").with_placement(value_of(instance, better), better)


def _search_loads(
    instance: OffloadInstance,
    state: _SearchState,
    clock: TimeLimit,
    seconds: float,
    levels: Sequence[float],
    random: Random,
) -> _SearchState:
    """Anneal with restarts, each with other clusters and another cooling schedule."""
    restarts = _restarts(instance, seconds)
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


def _restarts(instance: OffloadInstance, seconds: float) -> int:
    """Return the number of restarts: few enough that each search makes progress."""
    return max(2, min(_MAX_RESTARTS, int(seconds / (_RESTART_S_PER_GROUP * max(1, instance.count)))))


@dataclass(frozen=True)
class _RestartSettings:
    """Settings of one restart: the cost from which nets form clusters, and the cooling schedule."""

    min_cost: float
    power: int
    initial_temperature: float


def _random_settings(levels: Sequence[float], random: Random) -> _RestartSettings:
    return _RestartSettings(random.choice(levels), random.choice((4, 8, 12)), 10 ** random.uniform(-1, 0))


def _levels(instance: OffloadInstance, max_work: float) -> list[float]:
    """Return costs of nets that lead to different clusterings with enough clusters to balance."""
    costs = sorted({net.cost for net in instance.nets}, reverse=True)
    levels: dict[int, float] = {instance.count: inf}
    for cost in costs[:: -(-len(costs) // _MAX_LEVELS) or 1]:
        count = max(cluster(instance, cost, max_work), default=-1) + 1
        if count >= _MIN_CLUSTERS_PER_DEVICE * instance.devices:
            levels.setdefault(count, cost)
    return list(levels.values())


def _from_clusters(
    instance: OffloadInstance,
    state: _SearchState,
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
    if _largest_load(coarse, begin) < inf:
        steps = load_steps(coarse, seconds * _COARSE_SHARE)
        _, coarse_where = anneal(
            coarse, begin, random, clock, steps, initial_temperature=settings.initial_temperature, power=settings.power
        )
        where = [coarse_where[number] for number in cluster_of]
    steps = load_steps(instance, seconds * (1 - _COARSE_SHARE))
    return anneal(instance, where, random, clock, steps, goal=state.bound * (1 + _PROVEN), initial_temperature=0.1)


def _largest_load(instance: OffloadInstance, where: Sequence[int]) -> float:
    """Return the largest load; infinite where a group does not fit or cannot run."""
    state = DeviceLoads(instance, where)
    fits = all(held <= instance.capacity for held in state.held[instance.hosts :])
    return max(state.load, default=0.0) if fits else inf


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


def _least_latency(instance: OffloadInstance, clock: TimeLimit, random: Random) -> _SearchState:
    state = _SearchState(inf, None, path_bound(instance), "critical path")
    starts = starting_placements(instance)
    if not starts:
        return state
    state = state.with_placement(*min(starts))
    origins = [where for _, where in starts]
    work = sum(t for t in instance.acc_time if t < inf) / max(1, instance.accelerators)
    levels = _levels(instance, work)
    for searching, proving in _ROUND_SHARES:
        state = _search_calls(instance, state, clock, clock.seconds * searching, origins, levels, work, random)
        state = _prove(improve_calls, latency, instance, state, clock, clock.seconds * proving, random)
    return state


def _search_calls(
    instance: OffloadInstance,
    state: _SearchState,
    clock: TimeLimit,
    seconds: float,
    origins: Sequence[list[int]],
    levels: Sequence[float],
    work: float,
    random: Random,
) -> _SearchState:
    """Anneal from each start and from the best placement, clusters first."""
    restarts = max(len(origins) + 1, _restarts(instance, seconds))
    for i in range(restarts):
        if state.where is None or state.is_proven or clock.is_over():
            break
        origin = origins[i] if i < len(origins) else random.choice([*origins, state.where, state.where])
        cluster_of = cluster(instance, random.choice(levels), work)
        coarse = coarse_instance(instance, cluster_of)
        first: dict[int, int] = {}
        for group, number in enumerate(cluster_of):
            first.setdefault(number, origin[group])
        rough = [first[number] for number in range(coarse.count)]
        initial_temperature = 10 ** random.uniform(-2, -0.7)
        steps = call_steps(instance, seconds / restarts / 2)
        if latency(coarse, rough) < inf:
            _, coarse_where = anneal_calls(coarse, rough, random, clock, steps, initial_temperature=initial_temperature)
            origin = [coarse_where[number] for number in cluster_of]
        goal = state.bound * (1 + _PROVEN)
        state = state.with_placement(
            *anneal_calls(
                instance, origin, random, clock, steps, initial_temperature=initial_temperature / 2, goal=goal
            )
        )
    return state


def starting_placements(instance: OffloadInstance) -> list[tuple[float, list[int]]]:
    """Return placements to start from, with their latencies: the host alone, and the best intervals of an order."""
    starts: list[tuple[float, Sequence[int]]] = []
    if all(t < inf for t in instance.host_time):
        starts.append((latency(instance, [0] * instance.count), [0] * instance.count))
    pipeline = best_intervals(instance, depth_first_order(instance))
    if pipeline is not None:
        starts.append((latency(instance, pipeline[1]), pipeline[1]))
    return [(value, list(where)) for value, where in starts if value < inf]
