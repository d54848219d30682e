"""An interrupt that arrives while a test waits for something."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def interrupted_after(delay_s: float) -> Iterator[None]:
    """Interrupt the block as Ctrl-C does, and expect it to end with that, also where it was slow to begin."""
    timer = threading.Timer(delay_s, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    with suppress(KeyboardInterrupt):
        timer.start()
        yield
        raise AssertionError("the block was not interrupted")
