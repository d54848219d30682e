"""Calls a function in a forked copy of this process, with limits: native code may crash there, hang or take all memory.

A fork takes milliseconds and has all the data, where starting a child process takes a second. It may only run what
needs no other thread: no engine.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable

import msgspec
import psutil

from .child_process import ChildProcessFailed, end_with_parent
from .errors import ErrorRecord, TrisectError, error_from_record, error_record, one_line

_CHUNK_BYTES = 1 << 20
_WAIT_FACTOR = 5
_RESULT, _ERROR, _OTHER_ERROR, _NO_MEMORY = b"R", b"E", b"O", b"M"


def call_forked(function: Callable[[], bytes], name: str, time_limit_s: float, memory_limit_bytes: int) -> bytes:
    """Call a function in a forked process, and return its result.

    Only Linux can do that safely; elsewhere the function is called in this process.

    Parameters
    ----------
    function : callable
        Native code and Python that start no threads.
    name : str
        What it does, for messages.
    time_limit_s : float
        Processor time that it may take, so that a busy machine gives the same results; it may last `_WAIT_FACTOR` times
        as long.
    memory_limit_bytes : int
        How much more memory than now it may take.

    Raises
    ------
    ChildProcessFailed
        When it crashed or exceeded a limit.
    TrisectError
        As the function raised it.
    ValueError
        For any other exception, with its text.

    Examples
    --------
    >>> call_forked(lambda: b"done", "the example", 60.0, 1 << 30)
    b'done'
    """
    if sys.platform != "linux":
        return function()
    lifeline, own_end = os.pipe()
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads: it needs none of them
        pid = os.fork()
    if pid == 0:
        try:
            os.close(own_end)
            os.close(receiver)
            faulthandler.disable()
            for stream in (1, 2):  # what an abort prints is no line of ours
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end_with_parent(lifeline)
            _limit(time_limit_s, memory_limit_bytes)
            _send(sender, _outcome(function))
        finally:
            os._exit(0)
    os.close(lifeline)
    os.close(sender)
    try:
        outcome = _received(receiver, name, _WAIT_FACTOR * time_limit_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(receiver)
        os.close(own_end)
    kind, payload = outcome[:1], outcome[1:]
    if kind == _RESULT:
        return payload
    if kind == _ERROR:
        raise error_from_record(msgspec.json.decode(payload, type=ErrorRecord))
    if kind == _OTHER_ERROR:
        raise ValueError(payload.decode())
    if kind == _NO_MEMORY:
        raise ChildProcessFailed(name, f"it takes more than {memory_limit_bytes / 1e9:.2g} GB of memory")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        raise ChildProcessFailed(name, f"it takes more than {time_limit_s:.2g} s", timed_out=True)
    ended_by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {status}"
    raise ChildProcessFailed(name, f"its process ended ({ended_by})")


def _outcome(function: Callable[[], bytes]) -> bytes:
    try:
        return _RESULT + function()
    except TrisectError as error:
        return _ERROR + msgspec.json.encode(error_record(error))
    except MemoryError:
        return _NO_MEMORY
    except Exception as error:  # raised again in the parent
        return _OTHER_ERROR + one_line(error).encode()


def _limit(time_limit_s: float, memory_limit_bytes: int) -> None:
    import resource

    for kind, limit in (
        (resource.RLIMIT_AS, psutil.Process().memory_info().vms + memory_limit_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, math.ceil(time_limit_s)),
    ):
        hard_limit = resource.getrlimit(kind)[1]  # a user's own limit stays, and may be the lower one
        is_lower = hard_limit != resource.RLIM_INFINITY and hard_limit < limit
        resource.setrlimit(kind, (hard_limit if is_lower else limit, hard_limit))


def _send(sender: int, outcome: bytes) -> None:
    view = memoryview(outcome)
    while view:
        view = view[os.write(sender, view[:_CHUNK_BYTES]) :]


def _received(receiver: int, name: str, time_limit_s: float) -> bytes:
    end_s = time.monotonic() + time_limit_s
    chunks: list[bytes] = []
    while True:
        if not select.select([receiver], [], [], max(0.0, end_s - time.monotonic()))[0]:
            raise ChildProcessFailed(name, f"it takes more than {time_limit_s:.2g} s", timed_out=True)
        chunk = os.read(receiver, _CHUNK_BYTES)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
