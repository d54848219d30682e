"""Placement strategies: functions from a problem to a placement, found by name.

A strategy is one decorated function in a file of its own in a sub-package of this one, or an entry point of another
distribution in the group ``trisect.strategies`` (its name is the strategy's, its object the function).
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
"""Default time limit of strategies that search."""

_F = TypeVar("_F", bound=Callable[..., Any])
_REGISTERED: dict[str, Strategy] = {}


class UnknownStrategy(TrisectError):
    """There is no strategy of that name."""


def strategy(name: str) -> Callable[[_F], _F]:
    """Register a function ``(problem) -> {task: device id}`` as a strategy.

    A second parameter, if any, gets the text after a colon in the name: ``single:cpu:ort`` calls ``single`` with
    ``"cpu:ort"``. Keyword-only parameters named ``time_limit_s`` (of searches) and ``seed`` (of stochastic strategies)
    get these. Instead of a mapping a strategy may return a `Proposal`, with a bound that it has proven.

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
    """Return the names of all strategies."""
    _load_all()
    return sorted(_REGISTERED)


def lookup(name: str) -> Strategy:
    """Return the function of a name, which may carry an argument after a colon.

    Raises
    ------
    UnknownStrategy
        With the most similar name.

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
    """Return its keyword-only parameters: ``seed`` if it is stochastic, ``time_limit_s`` if it searches."""
    parameters = inspect.signature(function).parameters
    return {key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def propose(problem: Problem, name: str, *, time_limit_s: float = TIME_LIMIT_S, seed: int = 0) -> Proposal:
    """Call a strategy by name, without validating its proposal.

    Parameters
    ----------
    name : str
        A registered name, with an argument after a colon if the strategy takes one.
    time_limit_s : float
        Of strategies that search: those with a keyword-only parameter of this name.
    seed : int
        Of stochastic strategies: those with a keyword-only parameter of this name.

    Raises
    ------
    UnknownStrategy
    InfeasibleProblem
        When the strategy finds no placement.
    """
    function = lookup(name)
    base, _, argument = name.partition(":")
    parameters = inspect.signature(function).parameters
    options = {"time_limit_s": time_limit_s, "seed": seed}
    accepted = {key: value for key, value in options.items() if key in keywords(function)}
    if name in _REGISTERED or not argument:
        result = function(problem, **accepted)
    elif len(parameters) - len(accepted) < 2:
        raise UnknownStrategy(f"the strategy {base!r} takes no argument", remedy=f"write {base} instead of {name}")
    else:
        result = function(problem, argument, **accepted)
    return result if isinstance(result, Proposal) else Proposal(_as_placement(base, result))


def _as_placement(name: str, result: Any) -> dict[str, str]:
    """Return a strategy's result as task -> device id; its values may be devices or their ids."""
    if not isinstance(result, Mapping):
        raise InfeasibleProblem(
            f"expected a mapping of task to device from the strategy {name!r}, found {type(result).__name__}",
            remedy="return a mapping",
        )
    return {task: device.id if isinstance(device, Device) else device for task, device in result.items()}
