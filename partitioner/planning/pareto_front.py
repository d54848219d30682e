"""The front of two objectives: solutions that nothing found is better than in both.

Few placements are all tried. Else every strategy is asked under either objective, and from what they say searches set
out towards different balances of the two (the weighted Chebyshev norm, which also reaches points in dents of the
front), all they meet being kept if nothing beats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import inf, prod
from random import Random
from time import monotonic
from typing import get_args

from trisect.runtime.errors import InfeasibleProblem, InvalidInput
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective
from trisect.scheduler.problem.solution import Proposal, Solution
from trisect.scheduler.simulation.simulate import evaluate

from ..strategies import TIME_LIMIT_S, propose
from ..strategies.common.neighbourhood_search import change, changes_for
from ..strategies.common.placement_value import certificate, judge, simple_bound

_ENUMERABLE = 2**12
_QUICK = ("opclass", "heft", "peft", "multilevel", "balanced", "dp-chain", "mincut")
_MINCUT_TASKS = 400
_DIRECTIONS = 9


@dataclass
class _Front:
    """What was found so far, none of it beaten in both objectives."""

    problems: tuple[Problem, Problem]
    points: list[tuple[tuple[float, float], Proposal]] = field(default_factory=list)

    def meet(self, placement: dict[str, str]) -> tuple[float, float]:
        """Values of a placement, which is kept if nothing beats it; cut as is best for the first objective."""
        first, second = self.problems
        verdict = judge(first, Proposal(placement))
        if verdict.violations:
            return inf, inf
        values = verdict.value, evaluate(second, verdict.parts)[0]
        if not any(known[0] <= values[0] and known[1] <= values[1] for known, _ in self.points):
            kept = [p for p in self.points if not (values[0] <= p[0][0] and values[1] <= p[0][1])]
            self.points = [*kept, (values, Proposal(placement))]
        return values


def pareto_front(
    problem: Problem,
    objectives: tuple[Objective, Objective] = ("latency", "energy"),
    *,
    time_limit_s: float = TIME_LIMIT_S,
    seed: int = 0,
) -> list[Solution]:
    """Placements of which none is better than another in both objectives.

    Parameters
    ----------
    problem : Problem
        As a model's is; its own objective does not matter.
    objectives : pair of {"latency", "throughput", "energy", "memory"}
        A placement is cut as is best for the first.
    time_limit_s : float
    seed : int

    Returns
    -------
    list of Solution
        By falling quality in the first objective; `values` has both, `value` and `bound` are of the first.

    Raises
    ------
    InvalidInput
        For objectives that are not two different ones, or a problem that is no model's.
    InfeasibleProblem
        When nothing keeps all constraints.
    ProfileMissing
        For the energy of devices whose power nobody knows.

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
    known = get_args(Objective)
    if len(set(objectives)) != 2 or len(objectives) != 2 or not set(objectives) <= set(known):
        raise InvalidInput(
            f"{', '.join(objectives)} are not two objectives", remedy=f"choose two of {', '.join(known)}"
        )
    if problem.rules.convention != "segments":
        raise InvalidInput("a front is of problems as models make them", remedy="use trisect.solve")
    first, second = (problem.with_objective(objective) for objective in objectives)
    front = _Front((first, second))
    begin = monotonic()
    if prod(len(problem.allowed(task)) for task in problem.graph) <= _ENUMERABLE:
        tasks = list(problem.graph)
        for where in product(*(problem.allowed(task) for task in tasks)):
            front.meet(dict(zip(tasks, where, strict=True)))
    else:
        for start in _starts((first, second), time_limit_s, seed):
            front.meet(start)
        _search(front, time_limit_s, seed)
    if not front.points:
        raise InfeasibleProblem("no placement was found that keeps all constraints", remedy="loosen one")
    seconds = monotonic() - begin
    return [_solution(front, proposal, objectives, seconds) for _, proposal in sorted(front.points, key=lambda p: p[0])]


def _starts(problems: tuple[Problem, Problem], time_limit_s: float, seed: int) -> Iterator[dict[str, str]]:
    """What strategies say under either objective."""
    for problem in problems:
        singles = [f"single:{device}" for device in problem.device_ids]
        quick = [name for name in _QUICK if name != "mincut" or len(problem.graph) <= _MINCUT_TASKS]
        for name in [*singles, *quick, "auto"]:
            try:
                found = propose(problem, name, time_limit_s=time_limit_s / 4, seed=seed)
            except InfeasibleProblem:
                continue
            yield dict(found.placement)


def _search(front: _Front, time_limit_s: float, seed: int) -> None:
    """Walk from what is known towards each balance of the two objectives."""
    problem, random = front.problems[0], Random(seed)
    deadline = monotonic() + time_limit_s
    if not front.points or len(problem.devices) < 2:
        return
    lows = [max(simple_bound(p), 1e-300) for p in front.problems]
    for direction in range(_DIRECTIONS):
        weight = (direction + 0.5) / _DIRECTIONS

        def worth(values: tuple[float, float], weight: float = weight) -> float:
            off = [value / low for value, low in zip(values, lows, strict=True)]
            return max(weight * off[0], (1 - weight) * off[1]) + 1e-3 * sum(off)

        values, start = min(front.points, key=lambda point: worth(point[0]))
        current, best = dict(start.placement), worth(values)
        for _ in range(max(1, changes_for(problem, time_limit_s / (4 * _DIRECTIONS)))):
            if monotonic() > deadline:
                return
            changed = change(problem, current, (), random)
            if changed:
                found = worth(front.meet({**current, **changed}))
                if found <= best:
                    current, best = {**current, **changed}, found


def _solution(front: _Front, proposal: Proposal, objectives: tuple[Objective, ...], seconds: float) -> Solution:
    first, second = front.problems
    verdict = judge(first, proposal)
    bound = certificate(first, proposal)
    return Solution(
        placement=dict(proposal.placement),
        value=verdict.value,
        bound=min(bound.value, verdict.value),
        bound_by=bound.by,
        schedule=verdict.schedule,
        strategy="pareto",
        values=dict(zip(objectives, (verdict.value, evaluate(second, verdict.parts)[0]), strict=True)),
        seconds=seconds,
    )
