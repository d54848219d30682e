"""Carries small messages, and the right to map memory, between two processes of one machine.

Over a Unix socket a file descriptor travels with a message; a system without them has a TCP socket on loopback, and
passes memory by name. Either way a peer that is gone shows at once, as `ChannelClosed`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_MOST_BYTES = 1 << 30
_MOST_DESCRIPTORS = 64


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a connected stream socket; used by one thread at a time in each direction."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._passes_descriptors = connected.family == getattr(socket, "AF_UNIX", None)
        self._read = bytearray()
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """Of the socket, to wait for the other side's end."""
        return self._socket.fileno()

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, and the right to use files with it.

        Raises
        ------
        ChannelClosed
            When nobody is there.
        """
        message = _LENGTH.pack(len(data)) + data
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, [message], list(descriptors))
                message = message[sent:]
            self._socket.sendall(message)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> bytes:
        """Wait for one message.

        Raises
        ------
        ChannelClosed
            When the other side is gone.
        """
        while len(self._read) < _LENGTH.size:
            self._fill()
        (length,) = _LENGTH.unpack_from(self._read)
        if length > _MOST_BYTES:
            raise ChannelClosed(f"a message of {length} bytes is none of ours")
        while len(self._read) < _LENGTH.size + length:
            self._fill()
        data = bytes(self._read[_LENGTH.size : _LENGTH.size + length])
        del self._read[: _LENGTH.size + length]
        return data

    def take_descriptor(self) -> int:
        """The oldest descriptor that came and was not taken yet; each comes no later than its message.

        Raises
        ------
        ChannelClosed
            When none came: the other side does not say what it does.
        """
        if not self._descriptors:
            raise ChannelClosed("a descriptor is missing")
        return self._descriptors.popleft()

    def close(self) -> None:
        """Hang up; whoever waits at either end is told."""
        with suppress(OSError):  # the other side may have been quicker
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _fill(self) -> None:
        try:
            if self._passes_descriptors:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _MOST_DESCRIPTORS)
                self._descriptors.extend(descriptors)
            else:
                data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("the other side hung up")
        self._read += data
