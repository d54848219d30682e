"""Limits how long an engine may compile a graph of fixed shapes, and reports progress meanwhile.

Native compilers cannot be interrupted. Where the engine stores what it compiled, a child process compiles, which is
killed at the limit, and this process loads the result. Elsewhere a thread compiles, which is abandoned at the limit.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineFailed, InvalidInput
from trisect.runtime.isolated_calls import call_isolated
from trisect.runtime.progress import Progress, no_progress

ENVIRONMENT = "TRISECT_COMPILE_LIMIT_S"
COMPILE_REMEDY = f"raise {ENVIRONMENT}, shorten the context, or choose another device"
_LIMIT_S = 1800.0
_REPORTED_EVERY_S = 1.0
_Result = TypeVar("_Result")


def compile_limit_s() -> float:
    """Return how long one graph may take to compile.

    Raises
    ------
    InvalidInput
        If the environment variable ``TRISECT_COMPILE_LIMIT_S`` holds no number above 0.
    """
    text = os.environ.get(ENVIRONMENT, "")
    try:
        limit_s = float(text) if text else _LIMIT_S
    except ValueError:
        limit_s = math.nan
    if not limit_s > 0:
        raise InvalidInput(f"{ENVIRONMENT} is {text[:40]!r}", remedy="set it to a number of seconds")
    return limit_s


@dataclass(frozen=True)
class Compiling:
    """How long one graph may take to compile, and who is told meanwhile."""

    limit_s: float
    progress: Progress = no_progress

    def load(self, path: Path, device: Device, options: LoadOptions, what: str) -> Module:
        """Load a graph, compiled now or before.

        Parameters
        ----------
        what : str
            What is compiled, in a few words.

        Raises
        ------
        EngineFailed
            If the engine cannot compile it, or takes longer than the limit.
        """
        doing = f"{device.id} compiles {what}"
        if engines.is_compiled(path, device, options) is False:
            # The call's own limit ends the process; this one is for what happens before and after it.
            child = _BackgroundCall(lambda: call_isolated(_compile, self.limit_s, path, device, options))
            self._wait(child, doing, math.inf)
        call = _BackgroundCall(lambda: engines.load(path, device, options), discard=_close)
        if not self._wait(call, doing, self.limit_s):
            raise EngineFailed(
                f"{doing}, which takes longer than the limit of {self.limit_s:,.0f} s",
                remedy=COMPILE_REMEDY, device=device.id,
            )  # fmt: skip
        return call.outcome()

    def _wait(self, call: _BackgroundCall[_Result], doing: str, limit_s: float) -> bool:
        """Report progress until a call ends; False if it was abandoned at the limit."""
        begin = time.monotonic()
        call.thread.start()
        while not call.done.wait(_REPORTED_EVERY_S):
            elapsed_s = time.monotonic() - begin
            self.progress(0, 1, f"{doing}: {elapsed_s:.0f} s of {self.limit_s:,.0f} s at most")
            if elapsed_s >= limit_s and call.abandon():
                return False
        call.outcome()
        return True


class _BackgroundCall(Generic[_Result]):
    """A call in a daemon thread; a result that comes after it was abandoned is discarded."""

    def __init__(self, call: Callable[[], _Result], discard: Callable[[_Result], None] | None = None) -> None:
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, name="compile", daemon=True)
        self._call = call
        self._discard = discard
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    def abandon(self) -> bool:
        """Give the result up; False if it is there already."""
        with self._lock:
            self._is_abandoned = not self.done.is_set()
            return self._is_abandoned

    def outcome(self) -> _Result:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        with self._lock:
            self.done.set()
            is_abandoned = self._is_abandoned
        if is_abandoned and self._discard is not None:
            for result in self._results:
                self._discard(result)


def _close(module: Module) -> None:
    module.close()


def _compile(path: Path, device: Device, options: LoadOptions) -> bool:
    """Compile a graph, so that its engine stores the result."""
    engines.load(path, device, options).close()
    return True
