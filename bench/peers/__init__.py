"""Other systems that answer the same prompts with the same weights, one file each, found by name.

A file is called after the Python package that it needs, and holds a function ``source`` and a class ``Peer`` with a
``load`` and a ``run``. The package is imported in ``load`` alone, which happens in a worker process of its own
(`trisect.bench.llm.peer_process`), so that no engine's threads, memory or settings touch another's. A peer
whose package is not installed, or that cannot read the model, is left out, with a note.
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
class Timing:
    """What one answer took."""

    prefill_s: float
    kv_s: float
    decode_s: float
    """The tokens after the first."""
    end_to_end_s: float
    token_ids: tuple[int, ...]


class Source(Protocol):
    """What a peer loads of a model, in the form that it reads."""

    def __call__(self, model: str, bundle: Bundle) -> str:
        """The file or folder, from what the user gave or what trisect made of it.

        Raises
        ------
        UnsupportedModel
            Where there is none.
        """


class Peer(Protocol):
    """A system with a model loaded."""

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        """Load a model; `model` is what the peer's `Source` gave, a bundle's folder for trisect's own contenders."""

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        """Answer greedily with exactly so many tokens."""


def make(name: str) -> Peer:
    """The peer in the file of that name."""
    peer: Peer = importlib.import_module(f"{__name__}.{name}").Peer()
    return peer


def source(name: str, model: str, bundle: Bundle) -> str:
    """What the peer of that name is to load.

    Raises
    ------
    UnsupportedModel
        Where it cannot read the model in any form.
    """
    ask = cast("Source", importlib.import_module(f"{__name__}.{name}").source)
    return ask(model, bundle)


def gguf_file(model: str, bundle: Bundle) -> str:
    """The `Source` of peers that read GGUF files, and nothing that is made of one."""
    if not Path(model).is_file():
        raise UnsupportedModel("it reads GGUF files")
    return model


def external() -> list[str]:
    """Peers that are other systems, in the order of their names; those with an underscore are our own contenders."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
