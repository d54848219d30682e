"""A time limit interrupts code that catches exceptions, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from trisect.bench.time_limit import TimeLimitExceeded, time_limit

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")


def endless() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def test_code_that_catches_exceptions_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeLimitExceeded), time_limit(0.05):
        endless()
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_code_that_ends_in_time_is_not_interrupted() -> None:
    with time_limit(60):
        result = 1
    assert result == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread_is_not_limited() -> None:
    finished = []

    def run() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        finished.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert finished == [True]
