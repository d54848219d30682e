"""Calls native code in a way that Ctrl-C ends at once."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_STOP_TIME_S = 10.0
"""How long the end of this process waits for code that was stopped."""
_Result = TypeVar("_Result")


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
