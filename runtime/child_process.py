"""A child process that answers requests: one JSON document a line, over its standard input and output.

Code that may crash, hang or change global state runs in a process of its own, so that no engine's threads, memory or
settings touch another's. A process that waits for its next request takes no time from the one that runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Self

import msgspec

from .errors import EngineFailed, one_line

Handler = Callable[[Any], Any]
"""Takes one request and returns one reply; an iterator is sent as one reply for each of its items."""

_OUTPUT_BYTES = 1000
_REASON_LENGTH = 300


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

    Raises
    ------
    ChildProcessFailed
        When the system starts no further process.
    """

    def __init__(
        self, make_handler: Callable[[], Handler], name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        # A file: a pipe that is not read would fill up and block the process.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        target = repr((make_handler.__module__, make_handler.__qualname__))
        try:
            self._process = subprocess.Popen(
                # -P: a file in the current folder must not shadow a module.
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve{target}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._output,
                env=os.environ | (environment or {}),
                start_new_session=True,  # Ctrl-C is handled by the parent
            )
        except OSError as error:
            self._output.close()
            raise ChildProcessFailed(name, f"it cannot be started: {error.strerror or error}") from error

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
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(time_limit_s, kill) if time_limit_s is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            line = self._process.stdout.readline()
        except (OSError, ValueError):
            line = b""
        finally:
            if timer is not None:
                timer.cancel()
        if not line.endswith(b"\n"):
            if expired.is_set():
                self._process.wait()
                raise ChildProcessFailed(self._name, f"no reply within {time_limit_s:g} s: stopped", timed_out=True)
            raise self._ended()
        document = json.loads(line)
        if "error" in document:
            raise ChildProcessFailed(self._name, document["error"])
        return document["reply"]

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.wait()
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


def serve(module: str, make_handler: str) -> None:
    """Serve a handler until standard input ends: the main program of a child process.

    An exception of the handler becomes an error reply, and the process goes on. What it prints goes to standard error.

    Parameters
    ----------
    module, make_handler : str
        Where the function is that returns the handler.
    """
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


def _read_requests(requests: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    # The parent has exited: what is still running is not waited for.
    os._exit(0)
