"""Peers: other systems that answer the same prompts with the same weights, one file each, found by name.

A file is named after the Python package that it needs, and holds two functions: ``source`` returns the file or folder
that the peer loads (`PeerSource`), and ``load`` returns a loaded `Peer` (`PeerLoader`). The package is imported in
``load`` only, which runs in a process of its own (`trisect.bench.llm.peer_process`): no engine's threads, memory or
settings affect another's. A peer that is not installed, or that cannot read the model, is left out with a note.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from trisect.llm.bundle import Bundle
from trisect.runtime.errors import UnsupportedModel


@dataclass(frozen=True)
class PeerTiming:
    """Measured times of one answer, and its tokens."""

    prefill_s: float
    kv_s: float
    decode_s: float
    """All tokens after the first."""
    end_to_end_s: float
    token_ids: tuple[int, ...]


class Peer(Protocol):
    """A system with a model loaded."""

    def run(self, ids: list[int], new_tokens: int) -> PeerTiming:
        """Answer a prompt greedily with exactly `new_tokens` tokens."""


class PeerSource(Protocol):
    """Returns what a peer loads."""

    def __call__(self, model: str, bundle: Bundle) -> str:
        """Return the file or folder to load: what the user named, or a form of the bundle.

        Raises
        ------
        UnsupportedModel
            If the peer cannot read the model in any form.
        """


class PeerLoader(Protocol):
    """Loads a peer."""

    def __call__(self, model: str, threads: int, settings: dict[str, Any]) -> Peer:
        """Load a model; 0 threads = the peer's default."""


def load_peer(name: str, model: str, threads: int, settings: dict[str, Any]) -> Peer:
    """Load a model with the peer in the file of that name; see `PeerLoader`."""
    load = cast("PeerLoader", importlib.import_module(f"{__name__}.{name}").load)
    return load(model, threads, settings)


def peer_source(name: str, model: str, bundle: Bundle) -> str:
    """Return what the peer in the file of that name loads; see `PeerSource`."""
    source = cast("PeerSource", importlib.import_module(f"{__name__}.{name}").source)
    return source(model, bundle)


def gguf_file(model: str, bundle: Bundle) -> str:
    """Return the GGUF file that the user named: the `PeerSource` of peers that read nothing else."""
    if not Path(model).is_file():
        raise UnsupportedModel("it reads GGUF files only", remedy="give a GGUF file")
    return model


def external_peers() -> list[str]:
    """Return the names of peers that are other systems, sorted; names with an underscore are trisect itself."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
