"""``random``: a uniformly random device for each task, the baseline that every strategy has to beat.

For static scheduling in general see Kwok and Ahmad 1999, https://doi.org/10.1145/344588.344618. O(tasks x devices).
"""

from __future__ import annotations

from random import Random

from trisect.scheduler.problem.problem import Problem

from .. import strategy
from ..common.repair import repair


@strategy("random")
def random(problem: Problem, *, seed: int = 0) -> dict[str, str]:
    """Choose a random device for each task among those that can run it; stochastic (takes a seed).

    Examples
    --------
    >>> from trisect.scheduler.problem.example_problem import diamond
    >>> problem = diamond()
    >>> random(problem, seed=1) == random(problem, seed=1)
    True
    """
    generator = Random(seed)
    return repair(problem, {task: generator.choice(problem.allowed(task)) for task in problem.graph})
