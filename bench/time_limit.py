"""A time limit for code of the user that may never end, such as a strategy."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimitExceeded(BaseException):
    """The code did not end in time. Not an `Exception`, so that code that catches these does not catch it."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Interrupt the block after some seconds; only the main thread of a POSIX process can be interrupted.

    Raises
    ------
    TimeLimitExceeded
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
