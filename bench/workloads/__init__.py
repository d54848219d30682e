"""Workloads: named sets of placement problems to compare strategies on, found by name.

A workload is one file in this folder with one decorated function, or an entry point of another package in the group
``trisect.workloads`` (its name is the workload's, its object the decorated function). A user gives its name with
settings, ``random:layered?n=20,100&ccr=1``; a setting with several values makes a workload of each.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from itertools import product
from typing import Any

from trisect.runtime.errors import InvalidInput, TrisectError
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective


class UnknownWorkload(TrisectError):
    """No workload of this name is registered."""


@dataclass(frozen=True)
class WorkloadInstance:
    """One problem of a workload, built on demand."""

    name: str
    make: Callable[[], Problem]
    seed: int | None = None
    """Random seed of the problem; None for a fixed one."""
    known_bound: float = 0.0
    """Published lower bound of any placement's value."""


@dataclass(frozen=True)
class WorkloadRequest:
    """Arguments of a workload's function."""

    argument: str
    """Text after the colon: a kind, a path."""
    seeds: tuple[int, ...]
    """Random seeds: one random instance each."""
    objective: Objective | None
    """None: the workload's default."""


@dataclass(frozen=True)
class Workload:
    """A set of problems with its provenance."""

    name: str
    provenance: str
    """In one line: content, authors, place of publication."""
    licence: str
    """SPDX identifier where there is one."""
    instances: Callable[..., Iterable[WorkloadInstance]]
    """``(request, **settings)``; its keyword-only parameters are the settings, of the type of their defaults."""


@dataclass(frozen=True)
class WorkloadChoice:
    """A workload with one value for each setting that the user gave."""

    workload: Workload
    argument: str
    settings: tuple[tuple[str, str], ...]
    """Sorted by name."""

    @property
    def text(self) -> str:
        """The choice as a user would write it."""
        settings = "&".join(f"{key}={value}" for key, value in self.settings)
        return (
            self.workload.name + (f":{self.argument}" if self.argument else "") + (f"?{settings}" if settings else "")
        )


_REGISTERED: dict[str, Workload] = {}


def workload(
    name: str, *, provenance: str, licence: str
) -> Callable[[Callable[..., Iterable[WorkloadInstance]]], Workload]:
    """Register a function ``(request, *, setting=default, ...) -> instances`` as a workload.

    Examples
    --------
    >>> @workload("nothing", provenance="made here", licence="Apache-2.0")
    ... def nothing(request, *, size=3):
    ...     return []
    >>> [choice.text for choice in choices("nothing?size=1,2")]
    ['nothing?size=1', 'nothing?size=2']
    """

    def register(function: Callable[..., Iterable[WorkloadInstance]]) -> Workload:
        return add(Workload(name, provenance, licence, function))

    return register


def add(new: Workload) -> Workload:
    """Register a workload under its name."""
    _REGISTERED[new.name] = new
    return new


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group="trisect.workloads"):
        loaded = entry.load()
        if isinstance(loaded, Workload):
            _REGISTERED.setdefault(entry.name, loaded)


def all_workloads() -> list[Workload]:
    """Return all workloads, sorted by name."""
    _load_all()
    return [_REGISTERED[name] for name in sorted(_REGISTERED)]


def choices(text: str) -> list[WorkloadChoice]:
    """Parse a user's text into workloads: one for each combination of its settings' values.

    Raises
    ------
    UnknownWorkload
        With the nearest name.
    InvalidInput
        For an unknown setting, or an invalid value.
    """
    _load_all()
    head, _, settings = text.strip().partition("?")
    name, _, argument = head.partition(":")
    if name not in _REGISTERED:
        near = difflib.get_close_matches(name, _REGISTERED, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownWorkload(f"no workload {name!r}", remedy=f"{hint}there are: {', '.join(sorted(_REGISTERED))}")
    chosen = _REGISTERED[name]
    values_of: dict[str, list[str]] = {}
    for part in filter(None, settings.split("&")):
        key, _, values = part.partition("=")
        values_of[key] = values.split(",")
        for value in values_of[key]:
            _setting(chosen, key, value)
    keys = sorted(values_of)
    return [
        WorkloadChoice(chosen, argument, tuple(zip(keys, row, strict=True)))
        for row in product(*(values_of[k] for k in keys))
    ]


def instances(choice: WorkloadChoice, seeds: Iterable[int], objective: Objective | None) -> list[WorkloadInstance]:
    """Return the instances of a workload.

    Raises
    ------
    InvalidInput
        When there is none, two have the same name, or a setting is invalid.
    """
    settings = {key: _setting(choice.workload, key, value) for key, value in choice.settings}
    listed = list(choice.workload.instances(WorkloadRequest(choice.argument, tuple(seeds), objective), **settings))
    if not listed:
        raise InvalidInput(f"the workload {choice.text} has no instance", remedy="check its settings and the objective")
    names = {instance.name for instance in listed}
    if len(names) < len(listed):
        raise InvalidInput(
            f"the workload {choice.text} has two instances of the same name",
            remedy="give each instance a name of its own",
        )
    return listed


def settings_of(chosen: Workload) -> dict[str, Any]:
    """Return a workload's settings with their defaults."""
    parameters = inspect.signature(chosen.instances).parameters
    return {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _setting(chosen: Workload, key: str, value: str) -> Any:
    defaults = settings_of(chosen)
    if key not in defaults:
        near = difflib.get_close_matches(key, defaults, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"the workload {chosen.name} has no setting {key!r}"
        raise InvalidInput(message, remedy=f"{hint}there are: {', '.join(defaults) or 'none'}")
    try:
        return type(defaults[key])(value)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(type(defaults[key]), "a value")
        raise InvalidInput(f"{chosen.name}: {key} is {value!r}", remedy=f"give {kind}") from None
