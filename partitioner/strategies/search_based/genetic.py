"""``genetic``: placements as genes, crossed along the order of the graph.

Wang, Siegel, Roychowdhury and Maciejewski 1997, https://doi.org/10.1006/jpdc.1997.1392: tournaments, crossover at a
place of a topological order, so that what stands together stays together, changes by lot, and the best always
survives. Each child is judged by the problem's own rules, whatever the objective. O(children x one simulation).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from random import Random
from time import monotonic

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import topological_order

from .. import TIME_LIMIT_S, propose, strategy
from ..common.neighbourhood_search import changes_for, quick_start
from ..common.placement_value import judge
from ..common.repair import obeying

_POPULATION = 24
_FOUNDERS = ("heft", "peft", "opclass", "multilevel", "balanced", "dp-chain")
_MUTATION = 0.4

_Genes = tuple[str, ...]


@strategy("genetic")
def genetic(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Breed placements from those of the quick strategies and from random ones; the same seed breeds the same.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.runtime.device import Device
    >>> graph = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {task: {"cpu:x": 3.5, "gpu:y": 1.0} for task in graph}
    >>> problem = Problem.of(graph, devices, times)
    >>> set(genetic(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    start = quick_start(problem)
    order = topological_order(problem.graph)
    random, deadline = Random(seed), monotonic() + time_limit_s
    best, best_value, is_cut_short = start, judge(problem, start).value, False
    known: dict[_Genes, float] = {}

    def worth(genes: _Genes) -> float:
        nonlocal best, best_value
        if genes not in known:
            try:
                found = Proposal(obeying(problem, dict(zip(order, genes, strict=True))))
            except InfeasibleProblem:
                known[genes] = inf
                return inf
            known[genes] = judge(problem, found).value
            if known[genes] < best_value:
                best, best_value = found, known[genes]
        return known[genes]

    people = sorted((worth(genes), genes) for genes in dict.fromkeys(_founders(problem, order, start, random)))
    for _ in range(changes_for(problem, time_limit_s)):
        if monotonic() > deadline:
            is_cut_short = True
            break
        mother, father = (min(random.choices(people, k=3))[1] for _ in range(2))
        child = _mutated(problem, order, _crossed(mother, father, random), random)
        entry = (worth(child), child)
        if entry not in people and entry < people[-1]:
            people = sorted([*people[:-1], entry])
    return Proposal(best.placement, starts_s=best.starts_s, is_cut_short=is_cut_short)


def _founders(problem: Problem, order: list[str], start: Proposal, random: Random) -> Iterator[_Genes]:
    """What the quick strategies say, and random placements, the rest."""
    yield tuple(start.placement[task] for task in order)
    for name in _FOUNDERS:
        try:
            found = propose(problem, name).placement
        except InfeasibleProblem:
            continue
        yield tuple(found[task] for task in order)
    for _ in range(_POPULATION - len(_FOUNDERS)):
        yield tuple(random.choice(problem.allowed(task)) for task in order)


def _crossed(mother: _Genes, father: _Genes, random: Random) -> _Genes:
    """One stretch of the order from the one, the rest from the other."""
    begin, end = sorted(random.choices(range(len(mother) + 1), k=2))
    return mother[:begin] + father[begin:end] + mother[end:]


def _mutated(problem: Problem, order: list[str], genes: _Genes, random: Random) -> _Genes:
    """A stretch of the order moved to one device, where its tasks can run there."""
    if not genes or random.random() > _MUTATION:
        return genes
    begin = random.randrange(len(genes))
    length = min(int(random.expovariate(0.5)) + 1, len(genes) - begin)
    wanted = random.choice(problem.allowed(order[begin]))
    changed = list(genes)
    for i in range(begin, begin + length):
        if problem.time(order[i], wanted) < inf:
            changed[i] = wanted
    return tuple(changed)
