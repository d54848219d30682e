"""Systems that run an ONNX model, one file each, found by name: trisect with a plan, others with the whole model.

A file defines a contender class and names it in ``CONTENDER``. One whose file name has no underscore is a peer and also
defines ``variants(devices)``: how it would run a model on some devices. A contender is only ever loaded in a process of
its own (`trisect.bench.comparing.contender_process`).
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
class PeerVariant:
    """One way in which a peer runs a model."""

    label: str
    devices: tuple[str, ...]
    """Ids of trisect's devices that stand for what it runs on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """What a reader of its figures has to know."""
    same_as: str | None = None
    """Label of an equivalent variant on these devices, which is measured instead."""


@dataclass(frozen=True)
class ContenderOptions:
    """How a contender loads a model."""

    threads: int | None
    """Computing threads; None for the engine's default."""
    shapes: Mapping[str, int]
    settings: Mapping[str, Any]


class Contender(Protocol):
    """A model loaded by some system."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """Load a model, or a plan's folder, to be run on these feeds repeatedly.

        Returns
        -------
        str
            How the system runs it, such as the devices of the nodes; may be empty.
        """

    def run(self) -> dict[str, np.ndarray]:
        """Compute once."""

    def events(self) -> list[Event]:
        """Return the events of the last `run`; empty where the system does not record any."""

    def stream(self, items: int) -> float:
        """Return the seconds that the system takes for a stream of items."""


class WholeModelContender(ABC):
    """Base of peers that run the whole model, one call after the other."""

    @abstractmethod
    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""

    def events(self) -> list[Event]:
        """See `Contender.events`."""
        return []

    def stream(self, items: int) -> float:
        """See `Contender.stream`."""
        start_s = perf_counter()
        for _ in range(items):
            self.run()
        return perf_counter() - start_s


def make_contender(name: str) -> Contender:
    """Return a new contender of the file of that name."""
    return cast("Contender", importlib.import_module(f"{__name__}.{name}").CONTENDER())


def peer_variants(devices: Sequence[Device]) -> Iterator[tuple[str, PeerVariant]]:
    """Yield the file name and variant of all peers on some devices."""
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            for variant in importlib.import_module(f"{__name__}.{info.name}").variants(devices):
                yield info.name, variant
