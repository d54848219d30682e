"""``annealing``: simulated annealing from a list schedule.

Kirkpatrick, Gelatt and Vecchi 1983, https://doi.org/10.1126/science.220.4598.671. As `local_search`, but moves for the
worse are accepted with a probability that falls with the temperature. O(moves x one simulation).
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import best_quick_proposal, improve


@strategy("annealing")
def annealing(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Anneal from the better of list scheduling and a pipeline; stochastic (takes a seed).

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(annealing(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    return improve(problem, best_quick_proposal(problem), time_limit_s, seed, initial_temperature=0.05)
