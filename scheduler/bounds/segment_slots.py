"""The runtime's segments as a linear program: slots in an order, each with a device or unused, each task in one slot.

A task is never in an earlier slot than its predecessors, so the slots are convex segments without cycles, and every cut
of every placement is such an assignment. A bound for a number of slots holds for cuts into at most that many segments;
that more segments could be better is excluded by the call overhead of each additional one, where there is any.
"""

from __future__ import annotations

from math import inf

from trisect.runtime.errors import InfeasibleProblem

from ..problem.problem import Part, Problem
from ..problem.solution import Proposal
from .linear_program import Solver, solve
from .lower_bounds import best_bound
from .slot_model import SlotModel

_MAX_CELLS = 60_000
"""Task x slot x device choices above which the solvers find nothing in time."""
_MAX_SLOTS = 12
_SPARE_SLOTS = 2
_NAMES: dict[Solver, str] = {"cp": "CP-SAT", "milp": "MILP"}


def solve_segments(
    problem: Problem, known: list[Part] | None, value: float, time_limit_s: float, seed: int, solver: Solver
) -> Proposal | None:
    """Search for better segments than known ones, and prove a bound.

    Parameters
    ----------
    problem : Problem
        With the convention ``segments``.
    known : list of Part, optional
        In an order in which they can run.
    value : float
        Value of `known`; infinite without.
    solver : {"cp", "milp"}

    Returns
    -------
    Proposal or None
        With its parts; None where the problem is too large, or no solution was found in time.

    Raises
    ------
    InfeasibleProblem
        When it is proven that no placement satisfies all constraints.
    """
    count = len(problem.graph)
    slots = _slots(problem, len(known or ()))
    if count * slots * len(problem.devices) > _MAX_CELLS:
        return None
    model = SlotModel.of(problem, slots, value, is_integer=solver == "cp")
    result = solve(model.program, model.goal, solver, time_limit_s, seed, model.hint(known) if known else None)
    max_segments = problem.rules.max_segments or count
    is_all = slots >= min(max_segments, len(problem.devices) if problem.rules.contiguous else max_segments, count)
    if result.is_infeasible:
        if is_all and value == inf:
            raise InfeasibleProblem("it is proven that no placement satisfies all constraints", remedy="loosen one")
        if value == inf:
            return None
    bound = min(result.bound / model.scale, value)
    if not is_all:
        bound = min(bound, best_bound(problem, calls=slots + 1).value)
    parts = known if result.values is None else model.parts(result.values)
    if parts is None:
        return None
    placement = {task: part.device for part in parts for task in part.nodes}
    return Proposal(
        {task: placement[task] for task in problem.graph},
        bound * (1 - 1e-9),
        bound_by=_NAMES[solver],
        is_cut_short=result.is_cut_short,
        parts=tuple(parts),
    )


def _slots(problem: Problem, known: int) -> int:
    """Return the number of slots: as many as there can be in a small problem, else a few more than are used."""
    slots = len(problem.graph) if len(problem.graph) <= _MAX_SLOTS else max(known + _SPARE_SLOTS, len(problem.devices))
    limits = [slots, _MAX_SLOTS if known <= _MAX_SLOTS else known]
    if problem.rules.max_segments is not None:
        limits.append(problem.rules.max_segments)
    if problem.rules.contiguous:
        limits.append(len(problem.devices))
    return max(1, min(limits))
