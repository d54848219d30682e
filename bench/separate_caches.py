"""Folders of profiles and caches other than the user's, to measure as on a machine where nothing was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trisect.profiles.stored.profile_store import PROFILES_VARIABLE
from trisect.runtime.environment import environment


def cache_variables(folder: Path) -> dict[str, str]:
    """Return the environment variables that move profiles and caches into a folder."""
    return {PROFILES_VARIABLE: str(folder / "profiles"), "XDG_CACHE_HOME": str(folder / "cache")}


@contextmanager
def caches_in(folder: Path) -> Iterator[None]:
    """Use profiles and caches in a folder, in this process and in those that it starts."""
    with environment(cache_variables(folder)):
        yield
