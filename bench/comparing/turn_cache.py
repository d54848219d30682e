"""Cache of measured turns in the user's cache folder, so that an interrupted comparison resumes where it stopped.

A file holds the turns of one comparison: this model, these devices with their versions, these options.
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

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import StorageFailed
from trisect.runtime.untrusted_files import MalformedFile, decode_json, read_bytes

from .interleaved_measurement import ContenderMeasurements


@dataclass(frozen=True)
class CachedTurns:
    """Turns of earlier runs."""

    date: str
    """When the first of them was measured, ISO 8601, UTC."""
    contenders: dict[str, ContenderMeasurements]


def cache_path(key: Mapping[str, Any]) -> Path:
    """Return the file of the comparison that the key describes."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("trisect") / "bench" / f"{name}.json"


def read_turns(path: Path) -> CachedTurns | None:
    """Return the cached turns; None where there are none, or where the file is damaged."""
    with contextlib.suppress(OSError, MalformedFile):
        return decode_json(read_bytes(path), CachedTurns)
    return None


def write_turns(path: Path, turns: CachedTurns) -> None:
    """Write the turns. A cache that cannot be written does not fail a comparison."""
    with contextlib.suppress(StorageFailed):
        write_atomically(path, msgspec.json.encode(turns))
