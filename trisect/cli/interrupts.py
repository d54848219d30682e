"""Ends a command at once when the user interrupts it or the system asks it to end, also while native code runs.

Python handles a signal in the main thread, between two of its own steps: an exception is raised there, what is done is
kept, and everything is cleaned up. Where native code does not return, or cleaning up takes too long, a second thread
ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .standard_streams import open_closed_descriptors

INTERRUPTED = 130
HANDLING_TIME_S = 2.0
"""How long native code may run after a signal."""
CLEANING_TIME_S = 10.0
"""How long everything may take after a signal."""
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def interrupts_handled(*, until_exit: bool) -> Iterator[None]:
    """Handle the signals that end a command.

    Parameters
    ----------
    until_exit : bool
        Whether also what happens after the block is limited in time, until the process has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    open_closed_descriptors()  # the pipe must not take their numbers
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    is_handled, is_over = threading.Event(), threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        is_handled.set()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS if _is_ours(number)}
    wakeup_before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    guard = threading.Thread(target=_guard, args=(receiver, is_handled.wait, is_over.wait), daemon=True)
    guard.start()
    try:
        yield
    finally:
        if not until_exit:
            is_over.set()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(sender)  # ends the thread
            guard.join()


class InterruptRequest:
    """Whether the user has pressed Ctrl-C since this was last reset."""

    def __init__(self) -> None:
        self.is_made = False
        self._presses = 0
        self._is_typing = threading.Event()
        self._is_typing.set()

    def __call__(self, *_: object) -> None:
        self.is_made = True
        if self._is_typing.is_set():
            raise KeyboardInterrupt

    @contextmanager
    def typing(self, *, raises: bool) -> Iterator[None]:
        """Reset it for a block in which the user types; after the block, Ctrl-C is only recorded.

        Parameters
        ----------
        raises : bool
            Whether Ctrl-C raises `KeyboardInterrupt` in the block.
        """
        self.is_made, self._presses = False, 0
        if raises:
            self._is_typing.set()
        try:
            yield
        finally:
            self._is_typing.clear()

    def guard(self, receiver: int, forward: int) -> None:
        """End the process where a second Ctrl-C does not end either what it interrupts; pass other signals on.

        Parameters
        ----------
        receiver, forward : int
            Pipes: to read the signals from, and for those that are not Ctrl-C; the latter may be -1.
        """
        while number := os.read(receiver, 1):
            if number[0] == signal.SIGINT:
                self._presses += not self._is_typing.is_set()
                if self._presses > 1 and not self._is_typing.wait(HANDLING_TIME_S):
                    _end_now(INTERRUPTED)
            elif forward >= 0:
                os.write(forward, number)
        os.close(receiver)

    def end(self) -> None:
        """Record that there is nothing left to interrupt."""
        self._is_typing.set()


@contextmanager
def interrupts_requested() -> Iterator[InterruptRequest]:
    """Let a block decide what Ctrl-C ends: the command goes on, unless the block does not react to a second one."""
    request = InterruptRequest()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield request
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    before = signal.signal(signal.SIGINT, request)
    wakeup_before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    guard = threading.Thread(target=request.guard, args=(receiver, wakeup_before), daemon=True)
    guard.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup_before, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, before)
        request.end()
        os.close(sender)  # ends the thread
        guard.join()


def _is_ours(number: int) -> bool:
    """Return whether a signal is not ignored, as ``nohup`` and shells do for what runs in the background."""
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def _guard(receiver: int, wait_handled: Callable[[float], bool], wait_over: Callable[[float], bool]) -> None:
    """Wait for a signal, and end the process where that does not happen in time."""
    number = os.read(receiver, 1)
    while number and number[0] not in _SIGNALS:
        number = os.read(receiver, 1)
    if number and (not wait_handled(HANDLING_TIME_S) or not wait_over(CLEANING_TIME_S)):
        _end_now(128 + number[0])
    os.close(receiver)


def _end_now(code: int) -> None:
    try:
        from trisect.runtime.scratch_folder import remove_all

        remove_all()
        if code == INTERRUPTED:
            os.write(2, b"interrupted\n")
    finally:
        os._exit(code)
