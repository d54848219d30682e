"""Updates files that several processes share, under a lock, so that none loses what another one adds.

The lock is on the folder and ends with its process, so a killed one leaves none behind.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..atomic_write import write_atomically
from ..errors import StorageFailed
from ..untrusted_files import MalformedFile, decode_json, read_bytes
from .path_locks import lock_path

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 10.0
_POLL_S = 0.02
_logged: set[tuple[str, str]] = set()
_T = TypeVar("_T")


@contextmanager
def updating(path: Path, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
    """Keep other processes from updating a file, from reading it to writing it; do not nest.

    Raises
    ------
    StorageFailed
        When its folder cannot be made, or another process updates files there for too long.
    """
    lock, deadline_s = None, time.monotonic() + timeout_s
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror or error}") from error
    while lock is None:
        try:
            lock = lock_path(Path(os.path.realpath(path.parent)))
            break
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise StorageFailed(
                    f"{path} cannot be written: another process has been writing to its folder for {timeout_s:.0f} s",
                    remedy="try again when it has ended",
                ) from None
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def read_cache(path: Path, content: type[_T], what: str, consequence: str) -> _T | None:
    """Read a cache of JSON; None where there is none, and where it cannot be read, which is logged.

    Parameters
    ----------
    content : type
        What the file holds.
    what, consequence : str
        What cannot be read in the file, and what happens therefore: parts of the message.
    """
    try:
        return decode_json(read_bytes(path), content)
    except FileNotFoundError:
        return None
    except (OSError, MalformedFile) as error:
        log.warning("cannot read %s in %s, so %s: %s", what, path, consequence, error)
        return None


def update_cache(path: Path, merged: Callable[[], bytes], what: str) -> None:
    """Write a cache with what other processes have stored meanwhile; see `updating` and `write_cache`.

    Parameters
    ----------
    merged : callable
        Reads the file again, and returns its new content.
    what : str
        As for `write_cache`.
    """
    try:
        with updating(path):
            write_atomically(path, merged())
    except StorageFailed as error:
        not_cached(what, error)


def write_cache(path: Path, content: bytes, what: str) -> None:
    """Write a cache; where that fails, log what is lost: a cache is no reason to fail.

    Parameters
    ----------
    what : str
        What the file holds, as the subject of the message.
    """
    try:
        write_atomically(path, content)
    except StorageFailed as error:
        not_cached(what, error)


def not_cached(what: str, error: StorageFailed) -> None:
    """Log that something could not be cached, once for each reason."""
    if (what, str(error)) not in _logged:
        _logged.add((what, str(error)))
        log.warning("%s cannot be stored for the next time: %s", what, error)
