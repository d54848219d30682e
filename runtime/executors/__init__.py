"""What carries a plan out: a file here for each way to run the segments (this process, processes, a cluster).

An executor takes whole items (one set of feeds) and gives futures; several items in flight are what makes a pipeline.
It is found by the name of its file, which holds a function ``open_executor``. All share one dispatcher; what differs is
where the segments live, and how tensors get there (`Crew`).
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

__all__ = ["Executor", "Replan", "Result", "Settings", "open_executor"]

RESTARTS = 2


class Replan(Protocol):
    """Plans a model again, for when a device is lost for good."""

    def __call__(self, plan: Plan, *, without: Sequence[str]) -> Plan:
        """A plan of the same model, with the same inputs and outputs, that uses none of these device ids."""


@dataclass(frozen=True)
class Settings:
    """How a plan is to be carried out."""

    options: LoadOptions = field(default_factory=LoadOptions)
    """Of every engine."""
    timeout_s: float | None = None
    """A segment that runs longer hangs, and its device is treated as lost; None = however long it takes."""
    restarts: int = RESTARTS
    """How often in a row a worker that dies is started again before its device is lost for good."""
    replan: Replan | None = None
    """Where the work of a lost device goes; None = items that need it fail."""
    address: str | None = None
    """Of a running cluster, for executors that join one."""


@dataclass(frozen=True)
class Result:
    """What one item gave, and when its segments ran."""

    outputs: dict[str, np.ndarray]
    events: Sequence[EventRow]
    """Times in seconds since the executor was opened."""


class Executor(Protocol):
    """A plan loaded and ready for items."""

    @property
    def plan(self) -> Plan:
        """The plan that is carried out: another one than at first, once a device was lost."""

    def submit(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Future[Result]:
        """Start one item. The feeds are not copied: do not change them until the future is done.

        Parameters
        ----------
        item : int
            Number of the item in its stream.
        feeds : mapping of str to array
        conversions : sequence of Conversion
            Copies that checking the feeds made; the item's trace begins with them.
        """

    def run(self, item: int, feeds: Arrays, conversions: Sequence[Conversion] = ()) -> Result:
        """As the result of `submit`, sooner: the caller's thread does the work of devices that are idle."""

    def incidents(self) -> Sequence[Event]:
        """Faults, restarts and new plans since it was opened (of very many the last)."""

    def peak_bytes(self) -> Mapping[str, int]:
        """Per device id, the most that tensors it made took at once, waiting for whoever needs them."""

    def close(self) -> None:
        """Stop, give the devices' memory back; items in flight fail with `EngineFailed`."""


def open_executor(name: str, plan: Plan, settings: Settings) -> Executor:
    """Load a plan's segments behind an executor.

    Raises
    ------
    InvalidInput
        For a name that no executor has.
    InvalidPlan
        For segments that cannot be put in an order.
    EngineFailed
        Where an engine refuses a segment.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    if name not in names:
        raise InvalidInput(f"there is no executor {name!r}", remedy=f"use one of {', '.join(names)}")
    opened = cast(
        "Callable[[Plan, Settings], Executor]", importlib.import_module(f".{name}", __package__).open_executor
    )
    return opened(plan, settings)
