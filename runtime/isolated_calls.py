"""Calls functions in a child process with limits, where engines may crash, hang or take all memory."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

import msgspec

from .child_process import ChildProcess, Handler, memory_for_child_bytes
from .errors import ErrorRecord, TrisectError, error_from_record, error_record

IDLE_LIMIT_S = 60.0
"""After that long without a call the process ends, and with it the memory that its engines take."""
_START_LIMIT_S = 60.0

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Call(msgspec.Struct):
    module: str
    function: str
    arguments: list[Any]


class _Outcome(msgspec.Struct):
    result: Any = None
    error: ErrorRecord | None = None


class IsolatedCalls:
    """A child process that calls functions; it starts with the first call, and is replaced when it has ended.

    Parameters
    ----------
    name : str
        What the process is, for messages.
    memory_limit_bytes : int, optional
        Largest resident set; default: `memory_for_child_bytes`.
    """

    def __init__(self, name: str, *, memory_limit_bytes: int | None = None) -> None:
        self._name = name
        self._memory_limit_bytes = memory_limit_bytes
        self._process: ChildProcess | None = None
        self._is_ready = False
        self._owner_pid = 0
        self._lock = threading.Lock()
        self._idle: threading.Timer | None = None

    def call(
        self,
        function: Callable[_Arguments, _Result],
        time_limit_s: float,
        *arguments: _Arguments.args,
        **_: _Arguments.kwargs,
    ) -> _Result:
        """Call a function in the child process.

        Parameters
        ----------
        function : callable
            Importable by its name, with annotated parameters; arguments and result are plain values, dataclasses or
            paths.
        time_limit_s : float
            The process is killed when the call takes longer.

        Raises
        ------
        ChildProcessFailed
            When the process crashed, exceeded a limit, or cannot be started; the next call has a new process.
        TrisectError
            As the function raised it.
        """
        with self._lock:
            process = self._started()
            call = _Call(function.__module__, function.__qualname__, [_plain(a) for a in arguments])
            try:
                reply = process.request(call, time_limit_s=time_limit_s)
            except BaseException:
                self._stop()
                raise
            self._stop_when_idle()
        outcome = msgspec.convert(reply, _Outcome)
        if outcome.error is not None:
            raise error_from_record(outcome.error)
        result: _Result = _convert(outcome.result, get_type_hints(function)["return"])
        return result

    def start(self) -> None:
        """Start the process in the background, so that the first call need not wait for that.

        Raises
        ------
        ChildProcessFailed
            When it cannot be started.
        """
        with self._lock:
            self._spawn()
            self._stop_when_idle()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._stop()

    def _started(self) -> ChildProcess:
        process = self._spawn()
        if not self._is_ready:
            # So that the time limits of calls do not include the start.
            process.request(_Call(__name__, _ready.__qualname__, []), time_limit_s=_START_LIMIT_S)
            self._is_ready = True
        return process

    def _spawn(self) -> ChildProcess:
        if self._idle is not None:
            self._idle.cancel()
        if self._owner_pid != os.getpid():  # that process belongs to the one from which this one was forked
            self._process, self._owner_pid = None, os.getpid()
        if self._process is None or self._process.has_ended:
            limit_bytes = self._memory_limit_bytes or memory_for_child_bytes()
            self._process = ChildProcess(_handler, self._name, memory_limit_bytes=limit_bytes)
            self._is_ready = False
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _stop_when_idle(self) -> None:
        self._idle = threading.Timer(IDLE_LIMIT_S, self.close)
        self._idle.daemon = True
        self._idle.start()


@cache
def isolated_calls() -> IsolatedCalls:
    """Return the one process in which this process asks, runs and verifies what it does not know."""
    return IsolatedCalls("the process of trial runs")


def call_isolated(
    function: Callable[_Arguments, _Result],
    time_limit_s: float,
    *arguments: _Arguments.args,
    **keywords: _Arguments.kwargs,
) -> _Result:
    """Call a function in the one child process for that; see `IsolatedCalls.call`.

    Examples
    --------
    >>> call_isolated(_ready, 60.0)
    True
    """
    return isolated_calls().call(function, time_limit_s, *arguments, **keywords)


def _ready() -> bool:
    return True


def _handler() -> Handler:
    def answer(document: Any) -> _Outcome:
        call = msgspec.convert(document, _Call)
        function = getattr(importlib.import_module(call.module), call.function)
        hints = get_type_hints(function)
        hints.pop("return", None)
        try:
            result = function(*(_convert(a, hint) for a, hint in zip(call.arguments, hints.values(), strict=True)))
        except (TrisectError, MemoryError) as error:
            return _Outcome(error=error_record(error))
        return _Outcome(_plain(result))

    return answer


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=os.fspath)


def _convert(value: Any, hint: Any) -> Any:
    return msgspec.convert(value, hint, dec_hook=_decode)


def _decode(hint: type, value: Any) -> Any:
    if hint is Path:
        return Path(value)
    raise TypeError(f"{hint} cannot be sent to another process")
