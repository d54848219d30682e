"""Looks, as long as a session lasts, whether a run takes longer than it may."""

from __future__ import annotations

import threading
from collections.abc import Callable

_SHARE = 0.1
_MOST_S = 0.05


class Watch:
    """A thread that calls ``check`` often enough to notice a hang soon after it counts as one."""

    def __init__(self, timeout_s: float, check: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self._check = check
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look, name="trisect watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _look(self) -> None:
        while not self._closing.wait(min(self.timeout_s * _SHARE, _MOST_S)):
            self._check()
