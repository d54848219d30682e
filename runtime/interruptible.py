"""Calls native code in a way that Ctrl-C ends at once."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

_POLL_S = 0.05
_STOP_TIME_S = 10.0
"""How long the end of this process waits for code that was stopped."""
_Result = TypeVar("_Result")


def call_cancellably(
    function: Callable[[], _Result], cancel: Callable[[], object], should_stop: Callable[[], bool] | None = None
) -> _Result:
    """Call a function that spends its time outside Python, and cancel it when asked to, or when the user interrupts.

    Parameters
    ----------
    function : callable
        Must release Python's global lock while it computes; called in another thread.
    cancel : callable
        Ends the computation early, so that the function returns or raises; called again while it has not.
    should_stop : callable, optional
        Asked in short intervals whether to cancel.

    Raises
    ------
    KeyboardInterrupt
        When the user interrupts, after the computation has ended.

    Examples
    --------
    >>> call_cancellably(lambda: 6 * 7, cancel=lambda: None)
    42
    """
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(function)
        is_stopping, interruption = False, None
        while not outcome.done():
            try:
                wait([outcome], _POLL_S)
                if not is_stopping and should_stop is not None and not outcome.done():
                    is_stopping = should_stop()
            except BaseException as error:  # the computation must not outlive what it computes with
                is_stopping, interruption = True, error
            if is_stopping:
                cancel()
        if interruption is not None:
            raise interruption
        return outcome.result()


def call_interruptibly(function: Callable[[], _Result], stop: Callable[[], object] | None = None) -> _Result:
    """Call a function that spends its time outside Python, such as a solver.

    Python handles Ctrl-C in the main thread only, and only between two of its own steps: a call of native code in the
    main thread would delay it until that code returns. So the function runs in another thread, and the main thread
    waits.

    Parameters
    ----------
    function : callable
        Must release Python's global lock while it computes.
    stop : callable, optional
        Called when the user interrupts, to end the computation early; it is left to itself otherwise.

    Raises
    ------
    KeyboardInterrupt
        At once, when the user interrupts.

    Examples
    --------
    >>> call_interruptibly(lambda: 6 * 7)
    42
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # raised again by the caller's thread
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        if stop is not None:
            stop()
        # Python would end the thread in the middle of native code, which aborts the process.
        atexit.register(thread.join, _STOP_TIME_S)
        raise
