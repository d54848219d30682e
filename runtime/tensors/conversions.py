"""What a tensor goes through on a boundary beside being handed over: another dtype, another layout, another memory.

Engines pass the host's memory by reference wherever they can. Where they cannot, somebody copies: a feed that is not
C-ordered, elements of four bits that numpy has in bytes, a tensor that a GPU is to read. Whoever does so notes it here,
on its own thread, and whoever called for the run takes the notes along, so that a trace can show what they cost.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

_MOST = 10_000
"""Kept for somebody who does not take them: one who began a stream and left it."""


class Conversion(NamedTuple):
    """A tensor that was copied into another form."""

    name: str
    start_s: float
    """On the clock of `time.perf_counter`."""
    end_s: float
    size_bytes: int
    """Of what was made."""


class _Notes(threading.local):
    found: list[Conversion] | None = None


_NOTES = _Notes()


def listen() -> None:
    """Have what this thread converts noted, until `take`; what nobody listens to is not."""
    if _NOTES.found is None:
        _NOTES.found = []


def note(name: str, start_s: float, size_bytes: int) -> None:
    """Note a conversion that ends now.

    Examples
    --------
    >>> listen()
    >>> note("x", time.perf_counter(), 8)
    >>> [(found.name, found.size_bytes) for found in take()]
    [('x', 8)]
    >>> note("x", time.perf_counter(), 8)
    >>> take()
    ()
    """
    found = _NOTES.found
    if found is not None and len(found) < _MOST:
        found.append(Conversion(name, start_s, time.perf_counter(), size_bytes))


def take() -> tuple[Conversion, ...]:
    """What this thread noted since it listens."""
    found, _NOTES.found = _NOTES.found, None
    return tuple(found) if found else ()
