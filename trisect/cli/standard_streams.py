"""Standard output and error while a command runs: closed or full ones do not change what its exit code means.

Everything that is written to standard error, also by logging and by libraries, passes `printable_lines`. What a command
prints on standard output is escaped where it is printed (`output.py`), because tables contain a terminal's own codes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from trisect.runtime.errors import StorageFailed
from trisect.runtime.printable_text import printable_lines


class _Stream:
    """A text stream with another behaviour when something is written; all else is the stream's own."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def write(self, text: str) -> int:
        """Write a text."""
        raise NotImplementedError

    def _discard_the_rest(self) -> None:
        """Send what is still buffered, and what follows, to nowhere: the interpreter flushes once more at its end."""
        assert self.stream is not None
        with contextlib.suppress(OSError, ValueError):
            descriptor = self.stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class OutputStream(_Stream):
    """Standard output.

    Where the reader of a pipe has exited (``| head``), the command goes on without it, so that its exit code still
    says whether its work is done. A full disk or a closed stream is an error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self.has_no_reader = False

    def write(self, text: str) -> int:
        """Write a text.

        Raises
        ------
        StorageFailed
            Where the stream is closed, or its disk is full.
        """
        if self.stream is None:
            raise StorageFailed("standard output is closed", remedy="redirect it to a file or to /dev/null")
        try:
            return self.stream.write(text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered; see `write`."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        self._discard_the_rest()
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or str(error)
            raise StorageFailed(f"standard output cannot be written: {reason}", remedy="redirect it to another file")
        self.has_no_reader = True


class ErrorStream(_Stream):
    """Standard error: escaped; nothing happens where it is closed or full."""

    def write(self, text: str) -> int:
        """Write a text."""
        if self.stream is not None:
            try:
                self.stream.write(printable_lines(text))
            except (OSError, ValueError):
                self._discard_the_rest()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self._discard_the_rest()


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` while a command runs."""
    open_closed_descriptors()
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for an encoding without all characters, such as ASCII
    sys.stdout, sys.stderr = OutputStream(before[0]), ErrorStream(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_closed_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed: a file opened later would get the number, and what libraries print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
