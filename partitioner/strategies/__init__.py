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

from trisect.runtime.device import Device
from trisect.runtime.errors import InfeasibleProblem, TrisectError
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.solution import Proposal

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
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
    for entry in entry_points(group="trisect.strategies"):
        _REGISTERED.setdefault(entry.name, entry.load())


def names() -> list[str]:
    """Names of all strategies there are."""
    _load_all()
    return sorted(_REGISTERED)


def lookup(name: str) -> Strategy:
    """The function behind a name, which may carry an argument behind a colon.

    Raises
    ------
    UnknownStrategy
        With the nearest name.

    Examples
    --------
    >>> lookup("single:cpu:ort").__name__
    'single'
    """
    _load_all()
    base = name.partition(":")[0]
    function = _REGISTERED.get(name) or _REGISTERED.get(base)
    if function is None:
        near = difflib.get_close_matches(base, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownStrategy(f"no strategy {name!r}", remedy=f"{hint}there are: {', '.join(names())}")
    return function


def keywords(function: Strategy) -> set[str]:
    """Its keyword-only parameters: ``seed`` where it draws lots, ``time_limit_s`` where it searches."""
    parameters = inspect.signature(function).parameters
    return {key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


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
    function = lookup(name)
    base, _, argument = name.partition(":")
    parameters = inspect.signature(function).parameters
    offered = {"time_limit_s": time_limit_s, "seed": seed}
    wanted = {key: value for key, value in offered.items() if key in keywords(function)}
    if name in _REGISTERED or not argument:
        found = function(problem, **wanted)
    elif len(parameters) - len(wanted) < 2:
        raise UnknownStrategy(f"the strategy {base!r} takes no argument", remedy=f"write {base} instead of {name}")
    else:
        found = function(problem, argument, **wanted)
    return found if isinstance(found, Proposal) else Proposal(_as_placement(base, found))


def _as_placement(name: str, found: Any) -> dict[str, str]:
    """What a strategy returned, as task -> device id: a user's may name devices by themselves."""
    if not isinstance(found, Mapping):
        raise InfeasibleProblem(
            f"the strategy {name!r} returned {type(found).__name__}", remedy="return a mapping of task to device"
        )
    return {task: device.id if isinstance(device, Device) else device for task, device in found.items()}
