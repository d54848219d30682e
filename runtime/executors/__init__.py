"""What carries a plan out: a file here for each way to run the segments (threads of this process, others later).

An executor takes whole items (one set of feeds) and gives futures; several items in flight are what makes a pipeline.
It is found by the name of its file, which holds a function ``open_executor``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from ..engines.base import Arrays, LoadOptions
from ..errors import InvalidInput
from ..plan import Plan
from ..timeline import Event

__all__ = ["Executor", "Result", "open_executor"]


@dataclass(frozen=True)
class Result:
    """What one item gave, and when its segments ran."""

    outputs: dict[str, np.ndarray]
    events: tuple[Event, ...]
    """Times in seconds since the executor was opened."""


class Executor(Protocol):
    """A plan loaded and ready for items."""

    def submit(self, item: int, feeds: Arrays) -> Future[Result]:
        """Start one item. The feeds are not copied: leave them alone until the future is done."""

    def peak_bytes(self) -> Mapping[str, int]:
        """Per device id, the most that tensors it made took at once, waiting for whoever needs them."""

    def close(self) -> None:
        """Stop, give the devices' memory back; items in flight fail with `EngineFailed`."""


def open_executor(name: str, plan: Plan, options: LoadOptions) -> Executor:
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
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in names:
        raise InvalidInput(f"there is no executor {name!r}", remedy=f"use one of {', '.join(names)}")
    return cast("Executor", importlib.import_module(f".{name}", __package__).open_executor(plan, options))
