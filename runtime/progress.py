"""The callback by which long work reports how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as ``progress(done, total, text)``: steps done, all steps (0 = unknown), and the current step."""

    def __call__(self, done: int, total: int, text: str, /) -> None:
        """Report one step."""


def no_progress(done: int, total: int, text: str, /) -> None:
    """Report nothing."""
