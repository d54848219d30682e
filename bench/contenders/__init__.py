"""Ways to run an ONNX model, one file each, found by name: trisect with a plan, and other systems with the whole model.

A file holds a class ``Contender``; one whose name has no underscore is a peer and also holds ``offers(devices)``, which
says how it would run a model on some devices. A contender is only ever loaded in a process of its own
(`trisect.bench.comparing.contender_process`).
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, cast

import numpy as np

from trisect.runtime.device import Device
from trisect.runtime.plans.timeline import Event
from trisect.runtime.tensors.tensor_spec import Arrays


@dataclass(frozen=True)
class Offer:
    """One way in which a peer would run a model."""

    label: str
    devices: tuple[str, ...]
    """Ids of trisect's devices that stand for what it runs on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """What a reader of its figures has to know."""
    same_as: str | None = None
    """Label of an offer that comes to the very same thing here, and is measured instead."""


@dataclass(frozen=True)
class Loading:
    """How a contender is to be loaded."""

    threads: int | None
    """Computing threads; None = the engine's default."""
    shapes: Mapping[str, int]
    settings: Mapping[str, Any]


class Contender(Protocol):
    """A model loaded by some system."""

    def load(self, model: Path, feeds: Arrays, options: Loading) -> str:
        """Load a model, or a plan's folder, to be run on these feeds again and again.

        Returns
        -------
        str
            What it tells of itself, such as where the nodes went; may be empty.
        """

    def run(self) -> dict[str, np.ndarray]:
        """Compute once."""

    def events(self) -> list[Event]:
        """What the last `run` did and when; empty where the system does not tell."""

    def stream(self, items: int) -> float:
        """Seconds for so many items as quickly as the system takes them."""


class Whole(ABC):
    """What peers share that run the whole model, one call after the other."""

    @abstractmethod
    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""

    def events(self) -> list[Event]:
        """See `Contender.events`."""
        return []

    def stream(self, items: int) -> float:
        """See `Contender.stream`."""
        begun = perf_counter()
        for _ in range(items):
            self.run()
        return perf_counter() - begun


def make(name: str) -> Contender:
    """The contender in the file of that name."""
    return cast("Contender", importlib.import_module(f"{__name__}.{name}").Contender())


def peer_offers(devices: Sequence[Device]) -> Iterator[tuple[str, Offer]]:
    """What all peers offer on some devices: file name and offer."""
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            for offer in importlib.import_module(f"{__name__}.{info.name}").offers(devices):
                yield info.name, offer
