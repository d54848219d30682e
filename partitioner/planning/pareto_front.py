"""Finds the Pareto front of two objectives: placements that no other placement found is better than in both.

Few placements are enumerated. Otherwise every strategy places the tasks for either objective, and local searches start
from there towards different weights of the two objectives (in the weighted Chebyshev norm, which also reaches points in
non-convex regions of the front). Every non-dominated placement on the way is part of the front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import inf, prod
from random import Random
from typing import get_args

from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.search_time_limit import TimeLimit
from trisect.scheduler.problem.solution import Proposal, Solution
from trisect.scheduler.simulation.simulate import evaluate

from ..strategies import TIME_LIMIT_S, propose
from ..strategies.common.neighbourhood_search import move_count, random_move
from ..strategies.common.placement_value import certificate, closed_bound, evaluate_proposal, simple_bound

_ENUMERATED_MAX = 2**12
_FAST_STRATEGIES = ("opclass", "heft", "peft", "multilevel", "balanced", "dp-chain", "mincut")
_MINCUT_TASKS_MAX = 400
_WEIGHTS = 9


@dataclass
class _Front:
    """The non-dominated placements found so far."""

    problems: tuple[Problem, Problem]
    points: list[tuple[tuple[float, float], Proposal]] = field(default_factory=list)

    def add(self, placement: dict[str, str]) -> tuple[float, float]:
        """Evaluate a placement, cut as is best for the first objective, and add it unless it is dominated."""
        first, second = self.problems
        evaluation = evaluate_proposal(first, Proposal(placement))
        if evaluation.violations:
            return inf, inf
        values = evaluation.value, evaluate(second, evaluation.parts)[0]
        if not any(known[0] <= values[0] and known[1] <= values[1] for known, _ in self.points):
            others = [p for p in self.points if not (values[0] <= p[0][0] and values[1] <= p[0][1])]
            self.points = [*others, (values, Proposal(placement))]
        return values


def pareto_front(
    problem: Problem,
    objectives: tuple[Objective, Objective] = ("latency", "energy"),
    *,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
) -> list[Solution]:
    """Return Pareto-optimal placements for two objectives.

    Parameters
    ----------
    problem : Problem
        Of a model; its own objective does not matter.
    objectives : pair of {"latency", "throughput", "energy", "memory"}
        A placement is cut into segments as is best for the first.

    Returns
    -------
    list of Solution
        The best in the first objective first; `values` has both, `value` and `bound` are of the first.

    Raises
    ------
    InvalidInput
        For anything but two different objectives, and for a problem of a published benchmark.
    InfeasibleProblem
        When no placement satisfies the constraints.
    PowerUnknown
        For ``energy``, when the power of a device is not known.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 3.0, "gpu:y": 1.0} for task in "ab"}
    >>> platform = Platform(power_w={"cpu:x": 10.0, "gpu:y": 100.0})
    >>> problem = Problem.of(nx.DiGraph([("a", "b")]), devices, times, platform)
    >>> [(s.values["latency"], s.values["energy"]) for s in pareto_front(problem)]
    [(2.0, 200.0), (4.0, 130.0), (6.0, 60.0)]
    """
    check_objectives(objectives)
    if problem.rules.convention != "segments":
        raise InvalidInput(
            "expected a problem of a model, found one of a published benchmark", remedy="use trisect.solve"
        )
    problems = problem.with_objective(objectives[0]), problem.with_objective(objectives[1])
    front = _Front(problems)
    clock = TimeLimit(time_limit_s)
    if prod(len(problem.allowed(task)) for task in problem.graph) <= _ENUMERATED_MAX:
        tasks = list(problem.graph)
        for where in product(*(problem.allowed(task) for task in tasks)):
            front.add(dict(zip(tasks, where, strict=True)))
    else:
        for placement in _initial_placements(problems, time_limit_s, seed):
            front.add(placement)
        _search(front, time_limit_s, seed)
    if not front.points:
        raise InfeasibleProblem("no placement was found that satisfies all constraints", remedy="loosen a constraint")
    seconds = clock.elapsed_s()
    return [_solution(front, proposal, seconds) for _, proposal in sorted(front.points, key=lambda p: p[0])]


def check_objectives(objectives: tuple[Objective, ...]) -> None:
    """Refuse anything but two different objectives.

    Raises
    ------
    InvalidInput
    """
    known = get_args(Objective)
    if len(set(objectives)) != 2 or len(objectives) != 2 or not set(objectives) <= set(known):
        raise InvalidInput(
            f"expected two different objectives, found {','.join(objectives)!r}",
            remedy=f"choose two of {', '.join(known)}",
        )


def _initial_placements(problems: tuple[Problem, Problem], time_limit_s: float, seed: int) -> Iterator[dict[str, str]]:
    """Yield the placements of strategies for either objective."""
    for problem in problems:
        single_device = [f"single:{device}" for device in problem.device_ids]
        fast = [name for name in _FAST_STRATEGIES if name != "mincut" or len(problem.graph) <= _MINCUT_TASKS_MAX]
        for name in [*single_device, *fast, "auto"]:
            try:
                proposal = propose(problem, name, time_limit_s=time_limit_s / 4, seed=seed)
            except InfeasibleProblem:
                continue
            yield dict(proposal.placement)


def _search(front: _Front, time_limit_s: float, seed: int) -> None:
    """Search from the known placements towards each weighting of the two objectives."""
    problem, random = front.problems[0], Random(seed)
    clock = TimeLimit(time_limit_s)
    if not front.points or len(problem.devices) < 2:
        return
    bounds = [max(simple_bound(p), 1e-300) for p in front.problems]
    for number in range(_WEIGHTS):
        weight = (number + 0.5) / _WEIGHTS

        def weighted_norm(values: tuple[float, float], weight: float = weight) -> float:
            ratios = [value / bound for value, bound in zip(values, bounds, strict=True)]
            return max(weight * ratios[0], (1 - weight) * ratios[1]) + 1e-3 * sum(ratios)

        values, start = min(front.points, key=lambda point: weighted_norm(point[0]))
        current, best = dict(start.placement), weighted_norm(values)
        for _ in range(max(1, move_count(problem, time_limit_s / (4 * _WEIGHTS)))):
            if clock.is_over():
                return
            changed = random_move(problem, current, (), random)
            if changed:
                norm = weighted_norm(front.add({**current, **changed}))
                if norm <= best:
                    current, best = {**current, **changed}, norm


def _solution(front: _Front, proposal: Proposal, seconds: float) -> Solution:
    first, second = front.problems
    evaluation = evaluate_proposal(first, proposal)
    bound = certificate(first, proposal)
    return Solution(
        placement=dict(proposal.placement),
        value=evaluation.value,
        bound=closed_bound(bound.value, evaluation.value),
        bound_by=bound.by,
        schedule=evaluation.schedule,
        strategy="pareto",
        values={first.objective: evaluation.value, second.objective: evaluate(second, evaluation.parts)[0]},
        seconds=seconds,
    )
