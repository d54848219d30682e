"""``genetic``: placements as chromosomes, crossed along a topological order of the graph.

Wang, Siegel, Roychowdhury and Maciejewski 1997, https://doi.org/10.1006/jpdc.1997.1392: tournament selection, crossover
at positions of a topological order, so that neighbours stay together, random mutation, and elitism. Each child is
evaluated by the problem's own rules, whatever the objective. O(children x one simulation).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from random import Random

from trisect.runtime.errors import InfeasibleProblem
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.search_time_limit import TimeLimit
from trisect.scheduler.problem.solution import Proposal
from trisect.scheduler.problem.task_graph import topological_order

from .. import TIME_LIMIT_S, propose, strategy
from ..common.neighbourhood_search import best_quick_proposal, move_count
from ..common.placement_value import evaluate_proposal
from ..common.repair import repair

_POPULATION = 24
_FOUNDERS = ("heft", "peft", "opclass", "multilevel", "balanced", "dp-chain")
_MUTATION = 0.4

_Chromosome = tuple[str, ...]


@strategy("genetic")
def genetic(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Evolve placements of the quick strategies and random ones; stochastic (takes a seed).

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond(cpu_s=3.5)
    >>> set(genetic(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    start = best_quick_proposal(problem)
    order = topological_order(problem.graph)
    random, clock = Random(seed), TimeLimit(time_limit_s)
    best, best_value = start, evaluate_proposal(problem, start).value
    known: dict[_Chromosome, float] = {}

    def fitness(genes: _Chromosome) -> float:
        nonlocal best, best_value
        if genes not in known:
            try:
                proposal = Proposal(repair(problem, dict(zip(order, genes, strict=True))))
            except InfeasibleProblem:
                known[genes] = inf
                return inf
            known[genes] = evaluate_proposal(problem, proposal).value
            if known[genes] < best_value:
                best, best_value = proposal, known[genes]
        return known[genes]

    population = sorted((fitness(genes), genes) for genes in dict.fromkeys(_founders(problem, order, start, random)))
    for _ in range(move_count(problem, time_limit_s)):
        if clock.is_over():
            break
        first, second = (min(random.choices(population, k=3))[1] for _ in range(2))
        child = _mutated(problem, order, _crossed(first, second, random), random)
        entry = (fitness(child), child)
        if entry not in population and entry < population[-1]:
            population = sorted([*population[:-1], entry])
    return Proposal(best.placement, starts_s=best.starts_s, is_cut_short=clock.is_cut_short)


def _founders(problem: Problem, order: list[str], start: Proposal, random: Random) -> Iterator[_Chromosome]:
    """Yield the placements of the quick strategies, then random ones."""
    yield tuple(start.placement[task] for task in order)
    for name in _FOUNDERS:
        try:
            placement = propose(problem, name).placement
        except InfeasibleProblem:
            continue
        yield tuple(placement[task] for task in order)
    for _ in range(_POPULATION - len(_FOUNDERS)):
        yield tuple(random.choice(problem.allowed(task)) for task in order)


def _crossed(first: _Chromosome, second: _Chromosome, random: Random) -> _Chromosome:
    """Return the first parent with one interval of the order from the second (two-point crossover)."""
    begin, end = sorted(random.choices(range(len(first) + 1), k=2))
    return first[:begin] + second[begin:end] + first[end:]


def _mutated(problem: Problem, order: list[str], genes: _Chromosome, random: Random) -> _Chromosome:
    """Return a copy with an interval of the order moved to one device, where its tasks can run there."""
    if not genes or random.random() > _MUTATION:
        return genes
    begin = random.randrange(len(genes))
    length = min(int(random.expovariate(0.5)) + 1, len(genes) - begin)
    target = random.choice(problem.allowed(order[begin]))
    changed = list(genes)
    for i in range(begin, begin + length):
        if problem.time(order[i], target) < inf:
            changed[i] = target
    return tuple(changed)
