"""A thread that checks, as long as a session is open, whether a run exceeds its time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable

_INTERVAL_SHARE = 0.1
_INTERVAL_MAX_S = 0.05


class Watchdog:
    """Calls a function again and again, often enough to detect a hang soon after its time limit."""

    def __init__(self, timeout_s: float, check: Callable[[], None]) -> None:
        self._interval_s = min(timeout_s * _INTERVAL_SHARE, _INTERVAL_MAX_S)
        self._check = check
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="trisect watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _loop(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._check()
