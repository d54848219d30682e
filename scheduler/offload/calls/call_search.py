"""The search for the least latency: graphs in series, sequences of calls, calls along a path, annealing, CP-SAT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from random import Random

from ...problem.search_time_limit import TimeLimit
from ..coarsening import chain_clusters, cluster, coarse_instance
from ..cp_models import improve_calls
from ..offload_instance import OffloadInstance
from ..pipelines.pipeline_chain import best_intervals, depth_first_order
from ..search_state import PROVEN, ROUND_SHARES, SearchState, cluster_levels, prove, restart_count
from ..step_counts import call_bounds, call_steps
from .call_bound import raise_path_bound
from .call_latency import anneal_calls, latency
from .call_sequence import best_sequence
from .path_bound import best_path
from .series_calls import best_series

_CHAIN_SHARES = (1 / 8, 1 / 32)
"""Shares of an accelerator's memory that a chain may occupy where chains are kept together, one for each round."""
_SEQUENCE_RATIO = 1.5
"""Sequences up to this multiple of a known latency are tried: where steps overlap, the latency is below the sum."""
_BOUND_SHARE = 0.3
"""Share of the time for the calls along a path."""
_MAX_PROVABLE = 150
"""Number of groups above which CP-SAT proves nothing in time, and improves more where chains are kept together."""


def search_calls(instance: OffloadInstance, clock: TimeLimit, random: Random) -> SearchState:
    """Return the placement with the least latency found in the time, with a bound."""
    bound, path = best_path(instance)
    state = SearchState(inf, None, bound, "critical path")
    series_bound, series = best_series(instance, clock)
    state = state.with_bound(series_bound, "sequences of calls")
    if series is not None:
        state = state.with_placement(latency(instance, series), series)
    if state.is_proven:
        return state
    chains = [chain_clusters(instance, instance.capacity * share) for share in _CHAIN_SHARES]
    starts = starting_placements(instance)
    if state.where is not None:
        starts.append((state.value, state.where))
    for cluster_of in (list(range(instance.count)), *chains):
        limit = _SEQUENCE_RATIO * min(starts)[0] if starts else inf
        sequence = best_sequence(coarse_instance(instance, cluster_of), limit, clock)
        if sequence is not None:
            where = [sequence[number] for number in cluster_of]
            starts.append((latency(instance, where), where))
    if not starts:
        return state
    known = min(starts)
    state = state.with_placement(*known)
    if not state.is_proven:
        raised = raise_path_bound(instance, path, known, clock, call_bounds(instance, clock.seconds * _BOUND_SHARE))
        state = state.with_bound(raised.bound, "calls along a path")
        if raised.value < state.value:
            starts.append((raised.value, raised.where))
            state = state.with_placement(raised.value, raised.where)
    origins = [where for _, where in starts]
    work = sum(t for t in instance.acc_time if t < inf) / max(1, instance.accelerators)
    levels = cluster_levels(instance, work)
    for (searching, proving), cluster_of in zip(ROUND_SHARES, chains, strict=True):
        state = _anneal_restarts(instance, state, clock, clock.seconds * searching, origins, levels, work, random)
        improve = improve_calls if instance.count <= _MAX_PROVABLE else partial(_improve_on_chains, cluster_of)
        state = prove(improve, latency, instance, state, clock, clock.seconds * proving, random)
    return state


def _improve_on_chains(
    cluster_of: Sequence[int],
    instance: OffloadInstance,
    where: Sequence[int],
    value: float,
    least: float,
    clock: TimeLimit,
    seconds: float,
    seed: int,
) -> tuple[list[int], float]:
    """Search as `improve_calls` does, for placements that keep chains together; proves nothing."""
    coarse = coarse_instance(instance, cluster_of)
    rough = _of_clusters(cluster_of, where)
    known = latency(coarse, rough)
    if known == inf:
        return list(where), 0.0
    better, _ = improve_calls(coarse, rough, known, min(least, known), clock, seconds, seed)
    return [better[number] for number in cluster_of], 0.0


def _of_clusters(cluster_of: Sequence[int], where: Sequence[int]) -> list[int]:
    """Return the device of each cluster: that of its first group."""
    first: dict[int, int] = {}
    for number, device in zip(cluster_of, where, strict=True):
        first.setdefault(number, device)
    return [first[number] for number in range(len(first))]


def _anneal_restarts(
    instance: OffloadInstance,
    state: SearchState,
    clock: TimeLimit,
    seconds: float,
    origins: Sequence[list[int]],
    levels: Sequence[float],
    work: float,
    random: Random,
) -> SearchState:
    """Anneal from each start and from the best placement, clusters first."""
    restarts = max(len(origins) + 1, restart_count(instance, seconds))
    for i in range(restarts):
        if state.where is None or state.is_proven or clock.is_over():
            break
        origin = origins[i] if i < len(origins) else random.choice([*origins, state.where, state.where])
        cluster_of = cluster(instance, random.choice(levels), work)
        coarse = coarse_instance(instance, cluster_of)
        rough = _of_clusters(cluster_of, origin)
        initial_temperature = 10 ** random.uniform(-2, -0.7)
        if latency(coarse, rough) < inf:
            steps = call_steps(coarse, seconds / restarts / 2)
            _, coarse_where = anneal_calls(coarse, rough, random, clock, steps, initial_temperature=initial_temperature)
            origin = [coarse_where[number] for number in cluster_of]
        goal = state.bound * (1 + PROVEN)
        steps = call_steps(instance, seconds / restarts / 2)
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
