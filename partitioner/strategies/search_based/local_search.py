"""``local-search``: hill climbing from a good start, one task, neighbourhood or segment at a time.

Johnson, Papadimitriou and Yannakakis 1988, https://doi.org/10.1016/0022-0000(88)90046-3. Each move is evaluated by the
problem's own rules; see `neighbourhood_search`. Where accelerators pay for their transfers, loads are updated
incrementally, so that tens of thousands of moves are tried per second. O(degree) or one simulation per move.
"""

from __future__ import annotations

from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

from .. import TIME_LIMIT_S, strategy
from ..common.neighbourhood_search import best_quick_proposal, improve


@strategy("local-search")
def local_search(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Improve the better of list scheduling and a pipeline until time is up; stochastic (takes a seed).

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> set(local_search(problem, time_limit_s=0.1).placement.values())
    {'gpu:y'}
    """
    return improve(problem, best_quick_proposal(problem), time_limit_s, seed, initial_temperature=0.0)
