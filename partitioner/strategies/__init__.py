"""Strategies: functions from a Problem to a placement, found by name.

A strategy is one file in this folder with one decorated function, or an entry point of another package in the group
``trisect.strategies`` (its name is the strategy's, its object the function). Nobody keeps a list.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from trisect.runtime.errors import InfeasibleProblem, TrisectError
from trisect.scheduler.offload.definition import offload_violations
from trisect.scheduler.problem import Problem
from trisect.scheduler.solution import Proposal
from trisect.scheduler.validate import validate_placement

Strategy = Callable[..., Mapping[str, str] | Proposal]
TIME_LIMIT_S = 10.0
"""How long a strategy that searches may take where nobody says."""

_F = TypeVar("_F", bound=Callable[..., Any])
_REGISTERED: dict[str, Strategy] = {}


class UnknownStrategy(TrisectError):
    """A strategy's name that nobody registered."""


def strategy(name: str) -> Callable[[_F], _F]:
    """Register a function ``(problem) -> {task: device id}`` as a strategy.

    A second parameter, where there is one, gets what the user wrote behind a colon: ``single:cpu:ort`` calls ``single``
    with ``"cpu:ort"``. Keyword-only parameters named ``time_limit_s`` and ``seed`` get these. Instead of a mapping a
    strategy may return a `Proposal`, with a bound that it has proven.

    Examples
    --------
    >>> @strategy("everything-first")
    ... def everything_first(problem):
    ...     return {task: problem.device_ids[0] for task in problem.graph}
    >>> "everything-first" in names()
    True
    """

    def register(function: _F) -> _F:
        _REGISTERED[name] = function
        return function

    return register


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group="trisect.strategies"):
        _REGISTERED.setdefault(entry.name, entry.load())


def names() -> list[str]:
    """Names of all strategies there are."""
    _load_all()
    return sorted(_REGISTERED)


def propose(problem: Problem, name: str, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Ask a strategy, without checking what it says.

    Parameters
    ----------
    problem : Problem
    name : str
        A registered name, with an argument behind a colon where the strategy takes one.
    time_limit_s : float
        For strategies that search: those with a keyword-only parameter of this name.
    seed : int
        For strategies that draw lots: those with a keyword-only parameter of this name.

    Raises
    ------
    UnknownStrategy
    InfeasibleProblem
        When the strategy finds no placement.
    """
    _load_all()
    base, _, argument = name.partition(":")
    function = _REGISTERED.get(name) or _REGISTERED.get(base)
    if function is None:
        near = difflib.get_close_matches(base, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownStrategy(f"no strategy {name!r}", remedy=f"{hint}there are: {', '.join(names())}")
    parameters = inspect.signature(function).parameters
    offered = {"time_limit_s": time_limit_s, "seed": seed}
    named = {key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    wanted = {key: value for key, value in offered.items() if key in named}
    if name in _REGISTERED or not argument:
        found = function(problem, **wanted)
    elif len(parameters) - len(wanted) < 2:
        raise UnknownStrategy(f"the strategy {base!r} takes no argument", remedy=f"write {base} instead of {name}")
    else:
        found = function(problem, argument, **wanted)
    return found if isinstance(found, Proposal) else Proposal(found)


def place(problem: Problem, name: str, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> dict[str, str]:
    """Ask a strategy for a placement, and check what it says.

    Parameters
    ----------
    problem : Problem
    name : str
    time_limit_s, seed
        As for `propose`.

    Returns
    -------
    dict of str to str
        Task -> device id, for every task, in the graph's order.

    Raises
    ------
    UnknownStrategy
    InfeasibleProblem
        When the strategy finds no placement, or gives one that breaks the problem's rules.
    """
    placement = propose(problem, name, time_limit_s=time_limit_s, seed=seed).placement
    is_offload = problem.rules.convention == "offload"
    violations = offload_violations(problem, placement) if is_offload else validate_placement(problem, placement)
    if violations:
        raise InfeasibleProblem(f"the strategy {name!r} gave a placement that cannot be: {violations[0].message}")
    return {task: placement[task] for task in problem.graph}
