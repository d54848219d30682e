"""Other systems that answer the same prompts with the same weights, one file each, found by name.

A file holds a class ``Peer`` with a ``load`` and a ``run``; it is only ever imported inside a worker process of its own
(`trisect.bench.worker`), so that no engine's threads, memory or settings touch another's. A peer whose package is not
installed is left out, with a note.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Timing:
    """What one answer took."""

    prefill_s: float
    kv_s: float
    decode_s: float
    """The tokens after the first."""
    end_to_end_s: float
    token_ids: tuple[int, ...]


class Peer(Protocol):
    """A system with a model loaded."""

    package: str
    """Python package that it needs."""

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        """Load a model; `model` is what the user gave, a bundle's folder for trisect's own contenders."""

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        """Answer greedily with exactly so many tokens."""


def make(name: str) -> Peer:
    """The peer in the file of that name."""
    peer: Peer = importlib.import_module(f"{__name__}.{name}").Peer()
    return peer


def external() -> list[str]:
    """Peers that are other systems, in the order of their names; those with an underscore are our own contenders."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
