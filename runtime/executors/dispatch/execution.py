"""What goes into an executor and comes out: settings, the planner for lost devices, and the result of an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ...engines.base import LoadOptions
from ...plans.plan import Plan
from ...plans.timeline import EventRow

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
