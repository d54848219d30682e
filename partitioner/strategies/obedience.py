"""Keeps rules of thumb within the rules: what a heuristic says, bent where the problem's convention forbids it."""

from __future__ import annotations

from trisect.scheduler.lists import Assignment, TaskLists
from trisect.scheduler.offload.obeying import obey
from trisect.scheduler.problem import Placement, Problem
from trisect.scheduler.solution import Proposal


def obeying(problem: Problem, placement: Placement) -> dict[str, str]:
    """The placement, changed where a rule of its problem would be broken."""
    return obey(problem, placement) if problem.rules.convention == "offload" else dict(placement)


def obedient(problem: Problem, lists: TaskLists, found: Assignment) -> Proposal:
    """What list scheduling found, with its times where the problem goes by single tasks."""
    placement = lists.placement(found.where)
    if problem.rules.convention == "tasks":
        return Proposal(placement, starts_s=dict(zip(lists.tasks, found.start, strict=True)))
    return Proposal(obeying(problem, {task: placement[task] for task in problem.graph}))
