"""What comparisons measured, kept in the user's cache, so that one that was interrupted goes on where it was.

A file holds the turns of one question: this model, these devices with their versions, these options. Anything else is
another question, with a file of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from trisect.profiles.stored.profile_store import write_aside
from trisect.runtime.errors import StorageFailed

from .interleaved_measurement import Measured

_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True)
class Kept:
    """Turns of an earlier run."""

    date: str
    """When the first of them was taken, ISO 8601, UTC."""
    entrants: dict[str, Measured]


def path_for(question: Mapping[str, Any]) -> Path:
    """Where the answers to a question are kept."""
    name = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("trisect") / "bench" / f"{name}.json"


def read(path: Path) -> Kept | None:
    """What is kept; None where there is nothing, or nothing that can be read: it is then measured anew."""
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        if path.stat().st_size <= _LIMIT_BYTES:
            return msgspec.json.decode(path.read_bytes(), type=Kept)
    return None


def write(path: Path, kept: Kept) -> None:
    """Keep it. A cache that cannot be written is no reason to fail a comparison."""
    with contextlib.suppress(StorageFailed):
        write_aside(path, msgspec.json.encode(kept))
