"""Sets environment variables for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables in this process and in those that the block starts, and restore them at its end.

    Examples
    --------
    >>> with environment({"TRISECT_EXAMPLE": "1"}):
    ...     os.environ["TRISECT_EXAMPLE"]
    '1'
    >>> "TRISECT_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
