"""Workloads: named sets of placement problems to compare strategies on, found by name.

A workload is one file in this folder with one decorated function, or an entry point of another package in the group
``trisect.workloads`` (its name is the workload's, its object the decorated function). Nobody keeps a list. A user names
one with its settings, ``random:layered?n=20,100&ccr=1``; a setting with several values makes a workload of each.
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
    """A workload's name that nobody registered."""


@dataclass(frozen=True)
class WorkloadInstance:
    """One problem of a workload, made when it is needed."""

    name: str
    make: Callable[[], Problem]
    seed: int | None = None
    """The seed that it was drawn with; None for one that is always the same."""
    known_bound: float = 0.0
    """What its authors or others have proven that no placement is below."""


@dataclass(frozen=True)
class WorkloadRequest:
    """What a workload is asked for."""

    argument: str
    """What stands behind the colon: a kind, a path."""
    seeds: tuple[int, ...]
    """For workloads that draw their instances: one instance each."""
    objective: Objective | None
    """None: whatever is usual for the workload."""


@dataclass(frozen=True)
class Workload:
    """A set of problems with where it comes from."""

    name: str
    provenance: str
    """In one line: what it is, whose, where it is published."""
    licence: str
    """SPDX name where there is one."""
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
        """How a user would write it."""
        behind = "&".join(f"{key}={value}" for key, value in self.settings)
        return self.workload.name + (f":{self.argument}" if self.argument else "") + (f"?{behind}" if behind else "")


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


def add(found: Workload) -> Workload:
    """Make a workload known by its name."""
    _REGISTERED[found.name] = found
    return found


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group="trisect.workloads"):
        found = entry.load()
        if isinstance(found, Workload):
            _REGISTERED.setdefault(entry.name, found)


def all_workloads() -> list[Workload]:
    """All there are, by name."""
    _load_all()
    return [_REGISTERED[name] for name in sorted(_REGISTERED)]


def choices(text: str) -> list[WorkloadChoice]:
    """The workloads that a user's text names: one for each combination of its settings' values.

    Raises
    ------
    UnknownWorkload
        With the nearest name.
    InvalidInput
        For a setting that the workload does not have, or a value that is none.
    """
    _load_all()
    head, _, behind = text.strip().partition("?")
    name, _, argument = head.partition(":")
    if name not in _REGISTERED:
        near = difflib.get_close_matches(name, _REGISTERED, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownWorkload(f"no workload {name!r}", remedy=f"{hint}there are: {', '.join(sorted(_REGISTERED))}")
    found = _REGISTERED[name]
    given: dict[str, list[str]] = {}
    for part in filter(None, behind.split("&")):
        key, _, values = part.partition("=")
        given[key] = values.split(",")
        for value in given[key]:
            _setting(found, key, value)
    keys = sorted(given)
    return [
        WorkloadChoice(found, argument, tuple(zip(keys, row, strict=True)))
        for row in product(*(given[k] for k in keys))
    ]


def instances(choice: WorkloadChoice, seeds: Iterable[int], objective: Objective | None) -> list[WorkloadInstance]:
    """The problems of a chosen workload.

    Raises
    ------
    InvalidInput
        When there is none, two have one name, or a setting makes no sense.
    """
    settings = {key: _setting(choice.workload, key, value) for key, value in choice.settings}
    found = list(choice.workload.instances(WorkloadRequest(choice.argument, tuple(seeds), objective), **settings))
    if not found:
        raise InvalidInput(f"the workload {choice.text} has no instance", remedy="check its settings and the objective")
    names = {instance.name for instance in found}
    if len(names) < len(found):
        raise InvalidInput(f"the workload {choice.text} gives two instances one name", remedy="name them apart")
    return found


def settings_of(found: Workload) -> dict[str, Any]:
    """Its settings and what they are when nobody says."""
    parameters = inspect.signature(found.instances).parameters
    return {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _setting(found: Workload, key: str, value: str) -> Any:
    known = settings_of(found)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"the workload {found.name} has no setting {key!r}"
        raise InvalidInput(message, remedy=f"{hint}there are: {', '.join(known) or 'none'}")
    try:
        return type(known[key])(value)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(type(known[key]), "a value")
        raise InvalidInput(f"{found.name}: {key} is {value!r}", remedy=f"give {kind}") from None
