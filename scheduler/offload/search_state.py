"""What a search of the offload convention has reached, and what its searches share: proofs, restarts, clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from ..problem.search_time_limit import TimeLimit
from .coarsening import cluster
from .load_annealing import DeviceLoads
from .offload_instance import OffloadInstance

PROVEN = 1e-6
"""Relative gap below which a placement counts as optimal."""
ROUND_SHARES = ((0.25, 0.25), (0.3, 0.4))
"""Fractions of the time for search and for proof, in alternation: an easy proof needs no long search. Their sum exceeds
one, as the solver's deterministic time passes faster than the clock."""
_RESTART_S_PER_GROUP = 0.012
"""Minimum time of a restart."""
_MAX_RESTARTS = 20
_MAX_LEVELS = 20
_MIN_CLUSTERS_PER_DEVICE = 8


@dataclass(frozen=True)
class SearchState:
    """The best placement so far, and the proven bound."""

    value: float
    where: list[int] | None
    bound: float
    bound_by: str

    @property
    def is_proven(self) -> bool:
        """Whether the placement is proven optimal."""
        return self.value <= self.bound * (1 + PROVEN)

    def with_bound(self, bound: float, by: str) -> SearchState:
        """Return the state with a bound, if it is higher."""
        return replace(self, bound=bound, bound_by=by) if bound > self.bound else self

    def with_placement(self, value: float, where: list[int] | None) -> SearchState:
        """Return the state with a placement, if its value is lower."""
        return replace(self, value=value, where=where) if value < self.value else self


def prove(
    improve: Callable[..., tuple[list[int], float]],
    value_of: Callable[[OffloadInstance, list[int]], float],
    instance: OffloadInstance,
    state: SearchState,
    clock: TimeLimit,
    seconds: float,
    random: Random,
) -> SearchState:
    """Improve placement and bound by CP-SAT, unless the placement is proven optimal or time is up."""
    if not seconds or state.where is None or state.is_proven or clock.is_over():
        return state
    better, proven = improve(instance, state.where, state.value, state.bound, clock, seconds, random.randrange(2**31))
    return state.with_bound(proven, "CP-SAT").with_placement(value_of(instance, better), better)


def restart_count(instance: OffloadInstance, seconds: float) -> int:
    """Return the number of restarts: few enough that each search makes progress."""
    return max(2, min(_MAX_RESTARTS, int(seconds / (_RESTART_S_PER_GROUP * max(1, instance.count)))))


def cluster_levels(instance: OffloadInstance, max_work: float) -> list[float]:
    """Return costs of nets that lead to different clusterings with enough clusters to balance."""
    costs = sorted({net.cost for net in instance.nets}, reverse=True)
    levels: dict[int, float] = {instance.count: inf}
    for cost in costs[:: -(-len(costs) // _MAX_LEVELS) or 1]:
        count = max(cluster(instance, cost, max_work), default=-1) + 1
        if count >= _MIN_CLUSTERS_PER_DEVICE * instance.devices:
            levels.setdefault(count, cost)
    return list(levels.values())


def largest_load(instance: OffloadInstance, where: Sequence[int]) -> float:
    """Return the largest load; infinite where a group does not fit or cannot run."""
    state = DeviceLoads(instance, where)
    fits = all(held <= instance.capacity for held in state.held[instance.hosts :])
    return max(state.load, default=0.0) if fits else inf
