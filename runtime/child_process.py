"""A child process that answers requests: one JSON document a line, over its standard input and output.

Code that may crash, hang or change global state runs in a process of its own, so that no engine's threads, memory or
settings touch another's. A process that waits for its next request takes no time from the one that runs. It ends with
the process that started it, however that one ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from math import inf
from queue import SimpleQueue
from typing import Any, Self

import msgspec
import psutil

from .errors import EngineFailed, one_line

Handler = Callable[[Any], Any]
"""Takes one request and returns one reply; an iterator is sent as one reply for each of its items."""

_OUTPUT_BYTES = 1000
_REASON_LENGTH = 300
_MEMORY_CHECK_S = 0.05
_MEMORY_SHARE = 0.8


class ChildProcessFailed(EngineFailed):
    """A child process replied with an error, ended, or exceeded its time limit.

    Parameters
    ----------
    name : str
        What the process is, for the message.
    reason : str
        In one line, without the name.
    timed_out : bool
        Whether it was stopped because no reply came in time.
    """

    def __init__(self, name: str, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{name} failed: {reason}", reason=reason)
        self.timed_out = timed_out


class ChildProcess:
    """A process that serves one handler; a context manager.

    Parameters
    ----------
    make_handler : callable
        Importable by its name; the process calls it once and serves the handler that it returns.
    name : str
        What the process is, for messages.
    environment : mapping of str to str, optional
        Variables beside those of this process.
    memory_limit_bytes : int, optional
        Largest resident set while a request is processed; the process is killed when it has more. Not limited when
        left out.

    Raises
    ------
    ChildProcessFailed
        When the system starts no further process.
    """

    def __init__(
        self,
        make_handler: Callable[[], Handler],
        name: str,
        environment: Mapping[str, str] | None = None,
        *,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self._name = name
        self._memory_limit_bytes = memory_limit_bytes
        self._closing = threading.Lock()
        lifeline, self._lifeline = os.pipe()
        # A file: a pipe that is not read would fill up and block the process.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        target = repr((make_handler.__module__, make_handler.__qualname__, lifeline))
        try:
            self._process = subprocess.Popen(
                # -P: a file in the current folder must not shadow a module.
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve{target}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._output,
                env={**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})},
                start_new_session=True,  # Ctrl-C is handled by the parent
                pass_fds=() if os.name == "nt" else (lifeline,),
            )
        except OSError as error:
            self._output.close()
            os.close(self._lifeline)
            raise ChildProcessFailed(name, f"it cannot be started: {error.strerror or error}") from error
        finally:
            os.close(lifeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process answers no further request."""
        return self._process.poll() is not None

    def request(self, document: Any, *, time_limit_s: float | None = None) -> Any:
        """Send a request and wait for the (first) reply.

        Parameters
        ----------
        document : Any
            Plain values, dataclasses or msgspec structs; infinities and NaN keep their values.
        time_limit_s : float, optional
            The process is killed when it has not replied by then.

        Returns
        -------
        Any
            The reply as plain values.

        Raises
        ------
        ChildProcessFailed
            With the reason that the process gives, or with how it ended and what it printed last.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(msgspec.to_builtins(document)).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # ended, or closed
            raise self._ended() from None
        return self.next_reply(time_limit_s=time_limit_s)

    def next_reply(self, *, time_limit_s: float | None = None) -> Any:
        """Wait for another reply to a request whose handler returned an iterator; see `request`."""
        assert self._process.stdout is not None
        with _Watchdog(self._process, time_limit_s, self._memory_limit_bytes) as watchdog:
            try:
                line = self._process.stdout.readline()
            except (OSError, ValueError):
                line = b""
            except BaseException:  # interrupted: its reply would be taken for that of the next request
                self._process.kill()
                raise
        if not line.endswith(b"\n"):
            if watchdog.reason:
                self._process.wait()
                raise ChildProcessFailed(self._name, watchdog.reason, timed_out=watchdog.timed_out)
            raise self._ended()
        document = json.loads(line)
        if "error" in document:
            raise ChildProcessFailed(self._name, document["error"])
        return document["reply"]

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        with self._closing:  # several threads may close it
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
        for stream in (self._process.stdin, self._process.stdout, self._output):
            if stream is not None:
                with contextlib.suppress(OSError):  # a request that was never read is still in the pipe
                    stream.close()

    def _ended(self) -> ChildProcessFailed:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        printed = self._last_output()
        return ChildProcessFailed(self._name, f"its process ended ({how}){f': {printed}' if printed else ''}")

    def _last_output(self) -> str:
        """Return the last line that the process printed."""
        if self._output.closed:
            return ""
        size_bytes = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size_bytes - _OUTPUT_BYTES))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:_REASON_LENGTH] if lines else ""


def memory_for_child_bytes() -> int:
    """Return a memory limit for a process that runs what is unknown: most of what this machine has left."""
    return int(psutil.virtual_memory().available * _MEMORY_SHARE)


class _Watchdog:
    """Kills a process that takes too long or too much memory while a reply is awaited; a context manager."""

    def __init__(
        self, process: subprocess.Popen[bytes], time_limit_s: float | None, memory_limit_bytes: int | None
    ) -> None:
        self.reason = ""
        """Why it was killed; empty while it was not."""
        self.timed_out = False
        self._process, self._time_limit_s, self._memory_limit_bytes = process, time_limit_s, memory_limit_bytes
        self._done = threading.Event()
        self._has_limits = time_limit_s is not None or memory_limit_bytes is not None

    def __enter__(self) -> Self:
        if self._has_limits:
            threading.Thread(target=self._enforce, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()

    def _enforce(self) -> None:
        end_s = inf if self._time_limit_s is None else time.monotonic() + self._time_limit_s
        limit_bytes = inf if self._memory_limit_bytes is None else self._memory_limit_bytes
        check_s = inf if self._memory_limit_bytes is None else _MEMORY_CHECK_S
        with contextlib.suppress(psutil.Error):  # it has ended
            watched = psutil.Process(self._process.pid)
            while not self._done.wait(max(0.0, min(end_s - time.monotonic(), check_s, threading.TIMEOUT_MAX))):
                if time.monotonic() >= end_s:
                    self.timed_out = True
                    return self._kill(f"no reply within {self._time_limit_s:g} s: stopped")
                if watched.memory_info().rss > limit_bytes:
                    return self._kill(f"it took more than {limit_bytes / 1e9:.2g} GB: stopped")

    def _kill(self, reason: str) -> None:
        self.reason = reason
        self._process.kill()


def serve(module: str, make_handler: str, lifeline: int) -> None:
    """Serve a handler until standard input ends: the main program of a child process.

    An exception of the handler becomes an error reply, and the process goes on. What it prints goes to standard error.

    Parameters
    ----------
    module, make_handler : str
        Where the function is that returns the handler.
    lifeline : int
        Read end of a pipe without data; this process ends when the other end is closed.
    """
    end_with_parent(lifeline)
    # Libraries print to standard output from C too; only replies may reach the pipe.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(document: dict[str, Any]) -> None:
        replies.write(json.dumps(msgspec.to_builtins(document)).encode() + b"\n")
        replies.flush()

    handler: Handler = getattr(importlib.import_module(module), make_handler)()
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        try:
            result = handler(json.loads(requests.get()))
            for reply in result if isinstance(result, Iterator) else (result,):
                send({"reply": reply})
        except (Exception, SystemExit) as error:  # reported to the parent, which decides
            send({"error": one_line(error, _REASON_LENGTH, with_kind=False)})


def end_with_parent(lifeline: int) -> None:
    """Have the system kill this process when its parent ends, also while native code blocks all Python threads."""
    try:
        import fcntl

        kill_on_close = fcntl.F_SETSIG, signal.SIGKILL
    except (ImportError, AttributeError):  # elsewhere the end of standard input has to do
        return
    fcntl.fcntl(lifeline, *kill_on_close)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before that
        os._exit(0)


def _read_requests(requests: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    # The parent has exited: what is still running is not waited for.
    os._exit(0)
