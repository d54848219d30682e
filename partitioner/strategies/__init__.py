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
from trisect.scheduler.problem import Problem
from trisect.scheduler.validate import validate_placement

Strategy = Callable[..., Mapping[str, str]]
_F = TypeVar("_F", bound=Callable[..., Any])
_REGISTERED: dict[str, Strategy] = {}


class UnknownStrategy(TrisectError):
    """A strategy's name that nobody registered."""


def strategy(name: str) -> Callable[[_F], _F]:
    """Register a function ``(problem) -> {task: device id}`` as a strategy.

    A second parameter, where there is one, gets what the user wrote behind a colon: ``single:cpu:ort`` calls ``single``
    with ``"cpu:ort"``.

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


def place(problem: Problem, name: str) -> dict[str, str]:
    """Ask a strategy for a placement, and check what it says.

    Parameters
    ----------
    problem : Problem
    name : str
        A registered name, with an argument behind a colon where the strategy takes one.

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
    _load_all()
    base, _, argument = name.partition(":")
    function = _REGISTERED.get(name) or _REGISTERED.get(base)
    if function is None:
        near = difflib.get_close_matches(base, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownStrategy(f"no strategy {name!r}", remedy=f"{hint}there are: {', '.join(names())}")
    if name in _REGISTERED or not argument:
        placement = function(problem)
    elif len(inspect.signature(function).parameters) < 2:
        raise UnknownStrategy(f"the strategy {base!r} takes no argument", remedy=f"write {base} instead of {name}")
    else:
        placement = function(problem, argument)
    violations = validate_placement(problem, placement)
    if violations:
        raise InfeasibleProblem(f"the strategy {name!r} gave a placement that cannot be: {violations[0].message}")
    return {task: placement[task] for task in problem.graph}
