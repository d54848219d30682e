"""Executors run the segments of a plan: one module here for each way (this process, child processes, a Ray cluster).

An executor is found by the name of its module, which defines a function ``open_executor`` that returns a `Dispatcher`.
Executors differ in where the segments are loaded and how tensors get there (`HostGroup`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import cast

from ..errors import InvalidInput
from ..plans.plan import Plan
from .dispatch.dispatcher import Dispatcher
from .dispatch.execution import DEFAULT_RESTARTS, ExecutorSettings, ItemResult, Replan

__all__ = [
    "DEFAULT_RESTARTS",
    "Dispatcher",
    "ExecutorOpener",
    "ExecutorSettings",
    "ItemResult",
    "Replan",
    "open_executor",
]

ExecutorOpener = Callable[[Plan, ExecutorSettings], Dispatcher]
"""Loads the segments of a plan."""


def open_executor(name: str | ExecutorOpener, plan: Plan, settings: ExecutorSettings) -> Dispatcher:
    """Load the segments of a plan with an executor, given by its name or as the function that opens it.

    Raises
    ------
    InvalidInput
        For an unknown executor.
    InvalidPlan
        For segments that wait for each other, or read tensors that no segment computes.
    EngineFailed
        Where an engine refuses a segment; those loaded before are closed again.
    """
    if callable(name):
        return name(plan, settings)
    modules = pkgutil.iter_modules(__path__)
    names = sorted(module.name for module in modules if not module.ispkg and not module.name.startswith("_"))
    if name not in names:
        raise InvalidInput(f"there is no executor {name!r}", remedy=f"use one of {', '.join(names)}")
    module = importlib.import_module(f".{name}", __package__)
    return cast("ExecutorOpener", module.open_executor)(plan, settings)
