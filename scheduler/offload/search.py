"""The anytime portfolio for the offload convention: quick constructions, searches, then proofs, within a time limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from time import monotonic

from trisect.runtime.errors import InfeasibleProblem

from ..problem import Problem
from ..solution import Proposal
from .annealing import Loads, anneal
from .calls import anneal_calls, latency
from .chain import best_intervals, depth_first_order
from .coarsening import cluster, merged
from .downsets import best_chain
from .instance import Instance, make_instance
from .models import critical_path, improve_calls, improve_loads

_PROVEN = 1e-6
_ORDERS = 12
_SEARCHING = 0.6
"""Part of the time for searching, where the rest goes into proving."""
_PER_GROUP_S = 0.012
_FROM_BEST = 0.3
_AS_BEFORE = 0.5
_MOST_LEVELS = 20
_PER_DEVICE = 8
_ROUGH = 0.75
_MOST_ROUNDS = 20


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
    deadline = monotonic() + time_limit_s
    instance = make_instance(problem)
    random = Random(seed)
    if problem.objective == "latency":
        value, where, bound = _least_latency(instance, deadline, random, exact)
    elif problem.rules.contiguous:
        value, where, bound = _contiguous(instance, deadline, random, exact)
    else:
        value, where, bound = _anywhere(instance, deadline, random, exact)
    if where is None:
        raise InfeasibleProblem("no placement was found that keeps the rules", remedy="allow more time or memory")
    return Proposal(instance.spread(where), min(bound, value))


def load_bound(instance: Instance) -> float:
    """What no largest load is below: all work spread evenly, hosts taking what they are least bad at.

    Examples
    --------
    >>> instance = Instance((("a",), ("b",)), [9.0, 9.0], [2.0, 4.0], [0, 0], [], [[], []], [[], []], 1, 2, 1e9, ())
    >>> load_bound(instance)
    4.0
    """
    times = list(zip(instance.acc_time, instance.host_time, strict=True))
    low = max((min(pair) for pair in times), default=0.0)
    high = max(low, sum(min(pair) for pair in times))
    if _fits(instance, low):
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(instance, middle) else (middle, high)
    return low


def _fits(instance: Instance, load: float) -> bool:
    """Whether all work, cut as finely as one likes, fits under a load."""
    room = instance.hosts * load
    rest = 0.0
    pairs = zip(instance.acc_time, instance.host_time, strict=True)
    # To the hosts first what can run nowhere else, then what gains most there.
    for acc, host in sorted(pairs, key=lambda pair: pair[1] / pair[0] if pair[0] > 0 else inf):
        if acc == inf:
            room -= host
        elif host == inf or host > room:
            share = max(0.0, room / host) if 0 < host < inf else 0.0
            rest += acc * (1 - share)
            room -= host * share if host < inf else 0.0
        else:
            room -= host
    return room >= -1e-12 and rest <= instance.accelerators * load * (1 + 1e-12)


def _best_chain_of_orders(
    instance: Instance, random: Random, deadline: float, orders: int
) -> tuple[float, list[int] | None]:
    value, where = inf, None
    for i in range(orders):
        if where is not None and monotonic() > deadline:
            break
        found = best_intervals(instance, depth_first_order(instance, random if i else None), value)
        if found is not None:
            value, where = found
    return value, where


def _contiguous(
    instance: Instance, deadline: float, random: Random, exact: bool
) -> tuple[float, list[int] | None, float]:
    bound = load_bound(instance)
    value, where = _best_chain_of_orders(instance, random, deadline, _ORDERS)
    if exact and value > bound * (1 + _PROVEN):
        finished, found, better = best_chain(instance, value if value < inf else _anything(instance), deadline)
        if better is not None:
            value, where = found, better
        if finished:
            return value, where, value
    while monotonic() < deadline and value > bound * (1 + _PROVEN):
        improved = best_intervals(instance, depth_first_order(instance, random), value)
        if improved is not None:
            value, where = improved
    return value, where, bound


def _anything(instance: Instance) -> float:
    """Above any largest load."""
    times = (t for row in (instance.acc_time, instance.host_time) for t in row if t < inf)
    return 1.0 + sum(times) + 2 * sum(net.cost for net in instance.nets)


def _anywhere(
    instance: Instance, deadline: float, random: Random, exact: bool
) -> tuple[float, list[int] | None, float]:
    bound = load_bound(instance)
    begin = monotonic()
    value, where = _best_chain_of_orders(instance, random, deadline, 3)
    if where is None:
        where = fill(instance)
        if where is None:
            return inf, None, bound
        value = max(Loads(instance, where).load)
    searching = (deadline - begin) * (_SEARCHING if exact else 1.0)
    rounds = _rounds(instance, searching)
    settings, least_found = None, inf
    levels = _levels(instance, bound)
    for i in range(rounds):
        if value <= bound * (1 + _PROVEN):
            break
        until = begin + searching * (i + 1) / rounds
        tried = settings if settings is not None and random.random() < _AS_BEFORE else _draw_settings(levels, random)
        found, better = _from_clusters(instance, where, random, until, bound, tried)
        if settings is None or found < least_found:
            settings, least_found = tried, found
        if found < value:
            value, where = found, better
    left = deadline - monotonic()
    if exact and value > bound * (1 + _PROVEN) and left > 0.2:
        better, proven = improve_loads(instance, where, value, left, random.randrange(2**31))
        bound = max(bound, proven)
        value, where = _better(instance, value, where, better)
    return value, where, bound


def _rounds(instance: Instance, seconds: float) -> int:
    """How often to start anew: seldom enough that a search gets somewhere."""
    return max(2, min(_MOST_ROUNDS, int(seconds / (_PER_GROUP_S * max(1, instance.count)))))


@dataclass(frozen=True)
class _Settings:
    """What one restart tries: which nets hold clusters together, and how it cools."""

    least: float
    power: int
    heat: float


def _draw_settings(levels: Sequence[float], random: Random) -> _Settings:
    return _Settings(random.choice(levels), random.choice((4, 8, 12)), 10 ** random.uniform(-1, 0))


def _levels(instance: Instance, most: float) -> list[float]:
    """Costs of nets that lead to different clusters, and to enough of them to share out evenly."""
    costs = sorted({net.cost for net in instance.nets}, reverse=True)
    found: dict[int, float] = {instance.count: inf}
    for cost in costs[:: -(-len(costs) // _MOST_LEVELS) or 1]:
        count = max(cluster(instance, cost, most), default=-1) + 1
        if count >= _PER_DEVICE * instance.devices:
            found.setdefault(count, cost)
    return list(found.values())


def _from_clusters(
    instance: Instance, where: list[int], random: Random, until: float, bound: float, settings: _Settings
) -> tuple[float, list[int]]:
    """Anneal clusters of groups, then single groups; where to start is drawn."""
    home = cluster(instance, settings.least, bound)
    coarse = merged(instance, home)
    begin = None if random.random() < _FROM_BEST else fill(coarse, random)
    if begin is None:
        begin = [0] * coarse.count
        for group, number in enumerate(home):
            begin[number] = where[group]
    rough = monotonic() + (until - monotonic()) * _ROUGH
    state = Loads(coarse, begin)
    if all(held <= instance.capacity for held in state.held[instance.hosts :]) and max(state.load) < inf:
        _, found = anneal(coarse, begin, random, rough, heat=settings.heat, power=settings.power)
        where = [found[number] for number in home]
    return anneal(instance, where, random, until, goal=bound * (1 + _PROVEN), heat=0.1)


def _better(instance: Instance, value: float, where: list[int], other: list[int]) -> tuple[float, list[int]]:
    state = Loads(instance, other)
    fits = all(held <= instance.capacity for held in state.held[instance.hosts :])
    return (max(state.load), other) if fits and max(state.load) < value else (value, where)


def fill(instance: Instance, random: Random | None = None) -> list[int] | None:
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


def _least_latency(
    instance: Instance, deadline: float, random: Random, exact: bool
) -> tuple[float, list[int] | None, float]:
    head, _ = critical_path(instance)
    bound = max(head, default=0.0)
    starts = latency_starts(instance)
    if not starts:
        return inf, None, bound
    begin = monotonic()
    searching = (deadline - begin) * (_SEARCHING if exact else 1.0)
    value, where = min(starts)
    rounds = max(len(starts) + 1, _rounds(instance, searching))
    origins = [where for _, where in starts]
    work = sum(t for t in instance.acc_time if t < inf) / max(1, instance.accelerators)
    levels = _levels(instance, work)
    for i in range(rounds):
        if value <= bound * (1 + _PROVEN):
            break
        until = begin + searching * (i + 1) / rounds
        origin = origins[i] if i < len(origins) else random.choice([*origins, where, where])
        home = cluster(instance, random.choice(levels), work)
        coarse = merged(instance, home)
        first: dict[int, int] = {}
        for group, number in enumerate(home):
            first.setdefault(number, origin[group])
        rough = [first[number] for number in range(coarse.count)]
        heat = 10 ** random.uniform(-2, -0.7)
        if latency(coarse, rough) < inf:
            _, found_rough = anneal_calls(coarse, rough, random, (monotonic() + until) / 2, heat=heat)
            origin = [found_rough[number] for number in home]
        found, better = anneal_calls(instance, origin, random, until, heat=heat / 2, goal=bound * (1 + _PROVEN))
        if found < value:
            value, where = found, better
    left = deadline - monotonic()
    if exact and value > bound * (1 + _PROVEN) and left > 0.2:
        better, proven = improve_calls(instance, where, value, left, random.randrange(2**31))
        bound = max(bound, proven)
        if latency(instance, better) < value:
            value, where = latency(instance, better), better
    return value, where, bound


def latency_starts(instance: Instance) -> list[tuple[float, list[int]]]:
    """Placements to search from: the host alone, and pieces cut from an order for the largest load."""
    starts: list[tuple[float, Sequence[int]]] = []
    if all(t < inf for t in instance.host_time):
        starts.append((latency(instance, [0] * instance.count), [0] * instance.count))
    chain = best_intervals(instance, depth_first_order(instance))
    if chain is not None:
        starts.append((latency(instance, chain[1]), chain[1]))
    return [(value, list(where)) for value, where in starts if value < inf]
