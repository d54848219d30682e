"""Executors run the segments of a plan: one module here for each way (this process, child processes, a Ray cluster).

An executor takes whole items (one set of feeds each) and returns futures; several items in flight form the pipeline.
It is found by the name of its module, which defines a function ``open_executor``. All executors share one dispatcher;
they differ in where the segments are loaded and how tensors get there (`HostGroup`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np

from ..engines.base import LoadOptions
from ..errors import InvalidInput
from ..plans.plan import Plan
from ..plans.timeline import Event, EventRow
from ..tensors.conversions import Conversion
from ..tensors.tensor_spec import Arrays

__all__ = ["Executor", "ExecutorSettings", "ItemResult", "Replan", "open_executor"]

DEFAULT_RESTARTS = 2


class Replan(Protocol):
    """Makes another plan of a model when a device is lost for good."""

    def __call__(self, plan: Plan, *, without: Sequence[str]) -> Plan:
        """Return a plan with the same model, inputs and outputs that uses none of these device ids."""


@dataclass(frozen=True)
class ExecutorSettings:
    """How to run a plan."""

    options: LoadOptions = field(default_factory=LoadOptions)
    """For every engine."""
    timeout_s: float | None = None
    """A segment that runs longer is considered hanging and its device lost; None = no limit."""
    restarts: int = DEFAULT_RESTARTS
    """How many times in a row a worker that died is restarted before its device is lost for good."""
    replan: Replan | None = None
    """Makes a plan without a lost device; None = items that need the device fail."""
    address: str | None = None
    """Of a running cluster, for executors that join one."""


@dataclass(frozen=True)
class ItemResult:
    """The outputs of one item, and when its segments ran."""

    outputs: dict[str, np.ndarray]
    events: Sequence[EventRow]
    """Times in seconds since the executor was opened."""


class Executor(Protocol):
    """A loaded plan that is ready for items."""

    @property
    def plan(self) -> Plan:
        """The plan in use; not the original one after a device was lost and replaced."""

    @property
    def incident_count(self) -> int:
        """Number of faults, restarts and new plans since the executor was opened."""

    def submit(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Future[ItemResult]:
        """Start one item. The feeds are not copied: do not change them until the future is done.

        Parameters
        ----------
        item : int
            Number of the item in its stream.
        feeds : mapping of str to array
        conversions : sequence of Conversion
            Copies that checking the feeds made; the item's trace begins with them.
        """

    def run(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> ItemResult:
        """Compute one item; faster than waiting for `submit`, as the calling thread runs segments on idle devices."""

    def incidents(self, since: int = 0) -> Sequence[Event]:
        """Return incidents in order, without the first ``since``; only the latest are stored."""

    def peak_bytes(self) -> Mapping[str, int]:
        """Return, per device id, the peak size of the tensors that it computed and that were still needed."""

    def close(self) -> None:
        """Stop and free the devices' memory; items in flight fail with `EngineFailed`."""


def open_executor(name: str, plan: Plan, settings: ExecutorSettings) -> Executor:
    """Load the segments of a plan with an executor.

    Raises
    ------
    InvalidInput
        For an unknown executor.
    InvalidPlan
        For segments that cannot be ordered.
    EngineFailed
        Where an engine refuses a segment.
    """
    modules = pkgutil.iter_modules(__path__)
    names = sorted(module.name for module in modules if not module.ispkg and not module.name.startswith("_"))
    if name not in names:
        raise InvalidInput(f"there is no executor {name!r}", remedy=f"use one of {', '.join(names)}")
    opened = cast(
        "Callable[[Plan, ExecutorSettings], Executor]", importlib.import_module(f".{name}", __package__).open_executor
    )
    return opened(plan, settings)
