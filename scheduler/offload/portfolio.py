"""The anytime portfolio for the offload convention: quick constructions, searches, then proofs, within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Problem
from ..problem.solution import Proposal
from ..problem.time_limit import TimeLimit
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
_TURNS = ((0.25, 0.25), (0.3, 0.4))
"""Parts of the time for searching and for proving, by turns: what is easy to prove needs no long search. More than all,
as the solver's own time goes quicker than the clock."""
_ONLY_SEARCH = ((1.0, 0.0),)
_PER_GROUP_S = 0.012
_FROM_BEST = 0.3
_AS_BEFORE = 0.5
_MAX_LEVELS = 20
_PER_DEVICE = 8
_ROUGH = 0.75
_MAX_ROUNDS = 20


@dataclass(frozen=True)
class _SearchState:
    """The best so far, and what is proven."""

    value: float
    where: list[int] | None
    bound: float
    bound_by: str

    @property
    def is_proven(self) -> bool:
        return self.value <= self.bound * (1 + _PROVEN)

    def with_bound(self, bound: float, by: str) -> _SearchState:
        return replace(self, bound=bound, bound_by=by) if bound > self.bound else self

    def with_placement(self, value: float, where: list[int] | None) -> _SearchState:
        return replace(self, value=value, where=where) if value < self.value else self


def solve_offload(problem: Problem, time_limit_s: float, seed: int, *, exact: bool = True) -> Proposal:
    """The best placement found in the time, with a bound.

    Parameters
    ----------
    problem : Problem
    time_limit_s : float
    seed : int
    exact : bool
        Also try to prove; off, all the time goes into searching.

    Raises
    ------
    InfeasibleProblem
        When nothing was found that keeps the rules.
    """
    clock = TimeLimit(time_limit_s)
    instance = make_instance(problem)
    random = Random(seed)
    if problem.objective == "latency":
        found = _least_latency(instance, clock, random, exact)
    elif problem.rules.contiguous:
        found = _contiguous(instance, clock, random, exact)
    else:
        found = _anywhere(instance, clock, random, exact)
    if found.where is None:
        raise InfeasibleProblem("no placement was found that keeps the rules", remedy="allow more time or memory")
    bound = min(found.bound, found.value)
    return Proposal(instance.to_placement(found.where), bound, bound_by=found.bound_by, is_cut_short=clock.is_cut_short)


def _best_chain_of_orders(
    instance: OffloadInstance, random: Random, clock: TimeLimit, orders: int
) -> tuple[float, list[int] | None]:
    value, where = inf, None
    for i in range(orders):
        if where is not None and clock.is_over():
            break
        found = best_intervals(instance, depth_first_order(instance, random if i else None), value)
        if found is not None:
            value, where = found
    return value, where


def _contiguous(instance: OffloadInstance, clock: TimeLimit, random: Random, exact: bool) -> _SearchState:
    state = _SearchState(inf, None, load_bound(instance), "load")
    state = state.with_placement(*_best_chain_of_orders(instance, random, clock, _ORDERS))
    if exact and not state.is_proven:
        known = state.value if state.where is not None else _anything(instance)
        finished, found, better = best_chain(instance, known, clock)
        if better is not None:
            state = state.with_placement(found, better)
        if finished:
            return state.with_bound(state.value, "downsets")
        if state.where is not None and not clock.is_over():
            proving = clock.seconds * _TURNS[-1][-1]
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


def _anything(instance: OffloadInstance) -> float:
    """Above any largest load."""
    times = (t for row in (instance.acc_time, instance.host_time) for t in row if t < inf)
    return 1.0 + sum(times) + 2 * sum(net.cost for net in instance.nets)


def _anywhere(instance: OffloadInstance, clock: TimeLimit, random: Random, exact: bool) -> _SearchState:
    state = _SearchState(inf, None, load_bound(instance), "load")
    state = state.with_placement(*_best_chain_of_orders(instance, random, clock, 3))
    if state.where is None:
        where = first_fit(instance)
        if where is None:
            return state
        state = state.with_placement(max(DeviceLoads(instance, where).load), where)
    levels = _levels(instance, state.bound)
    for searching, proving in _TURNS if exact else _ONLY_SEARCH:
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
    """Let CP-SAT better placement and bound, where there is something left to prove and time for it."""
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
    """Anneal from new starts, with other clusters and another cooling each time."""
    rounds = _rounds(instance, seconds)
    settings, least_found = None, inf
    for _ in range(rounds):
        if state.where is None or state.is_proven or clock.is_over():
            break
        tried = settings if settings is not None and random.random() < _AS_BEFORE else _draw_settings(levels, random)
        found, better = _from_clusters(instance, state, random, clock, seconds / rounds, tried)
        if settings is None or found < least_found:
            settings, least_found = tried, found
        state = state.with_placement(found, better)
    return state


def _rounds(instance: OffloadInstance, seconds: float) -> int:
    """How often to start anew: seldom enough that a search gets somewhere."""
    return max(2, min(_MAX_ROUNDS, int(seconds / (_PER_GROUP_S * max(1, instance.count)))))


@dataclass(frozen=True)
class _RestartSettings:
    """What one restart tries: which nets hold clusters together, and how it cools."""

    least: float
    power: int
    initial_temperature: float


def _draw_settings(levels: Sequence[float], random: Random) -> _RestartSettings:
    return _RestartSettings(random.choice(levels), random.choice((4, 8, 12)), 10 ** random.uniform(-1, 0))


def _levels(instance: OffloadInstance, most: float) -> list[float]:
    """Costs of nets that lead to different clusters, and to enough of them to share out evenly."""
    costs = sorted({net.cost for net in instance.nets}, reverse=True)
    found: dict[int, float] = {instance.count: inf}
    for cost in costs[:: -(-len(costs) // _MAX_LEVELS) or 1]:
        count = max(cluster(instance, cost, most), default=-1) + 1
        if count >= _PER_DEVICE * instance.devices:
            found.setdefault(count, cost)
    return list(found.values())


def _from_clusters(
    instance: OffloadInstance,
    state: _SearchState,
    random: Random,
    clock: TimeLimit,
    seconds: float,
    settings: _RestartSettings,
) -> tuple[float, list[int]]:
    """Anneal clusters of groups, then single groups; where to start is drawn."""
    where = list(state.where or ())
    home = cluster(instance, settings.least, state.bound)
    coarse = coarse_instance(instance, home)
    begin = None if random.random() < _FROM_BEST else first_fit(coarse, random)
    if begin is None:
        begin = [0] * coarse.count
        for group, number in enumerate(home):
            begin[number] = where[group]
    if _largest_load(coarse, begin) < inf:
        steps = load_steps(coarse, seconds * _ROUGH)
        _, found = anneal(
            coarse, begin, random, clock, steps, initial_temperature=settings.initial_temperature, power=settings.power
        )
        where = [found[number] for number in home]
    steps = load_steps(instance, seconds * (1 - _ROUGH))
    return anneal(instance, where, random, clock, steps, goal=state.bound * (1 + _PROVEN), initial_temperature=0.1)


def _largest_load(instance: OffloadInstance, where: Sequence[int]) -> float:
    """Infinite where something does not fit or cannot run."""
    state = DeviceLoads(instance, where)
    fits = all(held <= instance.capacity for held in state.held[instance.hosts :])
    return max(state.load, default=0.0) if fits else inf


def first_fit(instance: OffloadInstance, random: Random | None = None) -> list[int] | None:
    """Any placement that keeps memory's limits: what needs an accelerator first, the largest first.

    Each goes to the device that is least loaded then; with lots to draw, to any accelerator with room for it.
    """
    room = [inf] * instance.hosts + [instance.capacity] * instance.accelerators
    load = [0.0] * instance.devices
    where = [0] * instance.count
    for g in sorted(range(instance.count), key=lambda g: (instance.host_time[g] < inf, -instance.size[g])):
        options = [
            (load[d] + t, d)
            for d in range(instance.devices)
            if room[d] >= instance.size[g]
            and (t := instance.host_time[g] if d < instance.hosts else instance.acc_time[g]) < inf
        ]
        if not options:
            return None
        drawn = [option for option in options if option[1] >= instance.hosts]
        chosen = random.choice(drawn) if random is not None and drawn else min(options)
        load[chosen[1]], where[g] = chosen
        room[where[g]] -= instance.size[g]
    return where


def _least_latency(instance: OffloadInstance, clock: TimeLimit, random: Random, exact: bool) -> _SearchState:
    state = _SearchState(inf, None, path_bound(instance), "critical path")
    starts = starting_placements(instance)
    if not starts:
        return state
    state = state.with_placement(*min(starts))
    origins = [where for _, where in starts]
    work = sum(t for t in instance.acc_time if t < inf) / max(1, instance.accelerators)
    levels = _levels(instance, work)
    for searching, proving in _TURNS if exact else _ONLY_SEARCH:
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
    """Anneal from each start and from the best, clusters first."""
    rounds = max(len(origins) + 1, _rounds(instance, seconds))
    for i in range(rounds):
        if state.where is None or state.is_proven or clock.is_over():
            break
        origin = origins[i] if i < len(origins) else random.choice([*origins, state.where, state.where])
        home = cluster(instance, random.choice(levels), work)
        coarse = coarse_instance(instance, home)
        first: dict[int, int] = {}
        for group, number in enumerate(home):
            first.setdefault(number, origin[group])
        rough = [first[number] for number in range(coarse.count)]
        initial_temperature = 10 ** random.uniform(-2, -0.7)
        steps = call_steps(instance, seconds / rounds / 2)
        if latency(coarse, rough) < inf:
            _, found_rough = anneal_calls(coarse, rough, random, clock, steps, initial_temperature=initial_temperature)
            origin = [found_rough[number] for number in home]
        goal = state.bound * (1 + _PROVEN)
        state = state.with_placement(
            *anneal_calls(
                instance, origin, random, clock, steps, initial_temperature=initial_temperature / 2, goal=goal
            )
        )
    return state


def starting_placements(instance: OffloadInstance) -> list[tuple[float, list[int]]]:
    """Placements to search from: the host alone, and pieces cut from an order for the largest load."""
    starts: list[tuple[float, Sequence[int]]] = []
    if all(t < inf for t in instance.host_time):
        starts.append((latency(instance, [0] * instance.count), [0] * instance.count))
    chain = best_intervals(instance, depth_first_order(instance))
    if chain is not None:
        starts.append((latency(instance, chain[1]), chain[1]))
    return [(value, list(where)) for value, where in starts if value < inf]
