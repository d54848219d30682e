"""Reads the messages of a chat: lines of a terminal, with a prompt and a history, or of a pipe."""

from __future__ import annotations

import contextlib
import sys

from trisect.runtime.errors import InvalidInput

from .interrupts import InterruptRequest
from .output import note, print_generated

_LINE_MAX = 1 << 24
"""Characters: several times what the context of any model holds."""
_BLOCK = '"""'
"""Begins and ends a message of several lines."""


def is_interactive() -> bool:
    """Return whether a person types the messages and reads the answers."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


class ChatInput:
    """Messages from standard input.

    Parameters
    ----------
    request : InterruptRequest
        Ctrl-C while a line is typed discards that line.
    """

    def __init__(self, request: InterruptRequest, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._request = request
        if is_terminal:
            with contextlib.suppress(ImportError):  # not on Windows
                import readline  # noqa: F401  (importing it gives `input` a history and editing keys)

    def next_message(self) -> str | None:
        """Return the next message, which may have several lines, or None at the end of the input.

        Raises
        ------
        InvalidInput
            Where the input is not UTF-8, or a line is too long.
        """
        try:
            with self._request.typing(raises=self._is_terminal):
                return self._message()
        except KeyboardInterrupt:
            print_generated("\n")
            note("(/exit or Ctrl-D ends the chat, Ctrl-C an answer)")
            return ""

    def _message(self) -> str | None:
        line = self._line("> ")
        if line is None or not line.startswith(_BLOCK):
            return line
        lines = [line.removeprefix(_BLOCK)]
        length = len(line)
        while not lines[-1].rstrip().endswith(_BLOCK):
            following = self._line(". ")
            if following is None:
                break
            lines.append(following)
            length += len(following)
            if length > _LINE_MAX:
                raise InvalidInput(f"a message has more than {_LINE_MAX} characters", remedy="shorten it")
        return "\n".join(lines).rstrip().removesuffix(_BLOCK).strip("\n")

    def _line(self, prompt: str) -> str | None:
        try:
            if self._is_terminal:
                line = input(prompt) + "\n"
            else:
                line = sys.stdin.readline(_LINE_MAX + 1) if sys.stdin is not None else ""
            line.encode()  # some locales make lone surrogates of bytes that are not UTF-8
        except EOFError:
            print_generated("\n")
            return None
        except UnicodeError as error:
            raise InvalidInput("standard input is not UTF-8", remedy="convert it") from error
        if len(line) > _LINE_MAX:
            raise InvalidInput(f"a message has more than {_LINE_MAX} characters", remedy="shorten it")
        return line.rstrip("\r\n") if line else None
