"""Sends small messages and file descriptors between two processes of one machine.

Over a Unix socket a file descriptor travels with a message. A system without Unix sockets uses a TCP socket on loopback
and shares memory by name. Either way the end of the other process is detected at once, as `ChannelClosed`.
"""

from __future__ import annotations

import hmac
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

TOKEN_BYTES = 32
"""Length of the secret with which a process that connects proves that it is the expected one."""
_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_MESSAGE_BYTES_MAX = 1 << 30
_DESCRIPTORS_MAX = 64


class ChannelClosed(Exception):
    """The other process closed the channel or ended."""


class Channel:
    """One end of a connected stream socket; used by one thread at a time in each direction."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._passes_descriptors = connected.family == getattr(socket, "AF_UNIX", None)
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """Return the socket's descriptor, to poll for the end of the other process."""
        return self._socket.fileno()

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, and file descriptors with it.

        Raises
        ------
        ChannelClosed
            Where the other process is gone.
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
            Where the other process is gone.
        """
        while len(self._buffer) < _LENGTH.size:
            self._fill()
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > _MESSAGE_BYTES_MAX:
            raise ChannelClosed(f"unexpected message of {length} bytes, at most {_MESSAGE_BYTES_MAX} are allowed")
        while len(self._buffer) < _LENGTH.size + length:
            self._fill()
        data = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        return data

    def take_descriptor(self) -> int:
        """Return the oldest descriptor that was received and not taken; each arrives no later than its message.

        Raises
        ------
        ChannelClosed
            Where there is none: the other process does not follow the protocol.
        """
        if not self._descriptors:
            raise ChannelClosed("a message came without its file descriptor")
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the connection; a thread that waits at either end gets `ChannelClosed`."""
        with suppress(OSError):  # the other process may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _fill(self) -> None:
        try:
            if self._passes_descriptors:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _DESCRIPTORS_MAX)
                self._descriptors.extend(descriptors)
            else:
                data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("the other process closed the connection")
        self._buffer += data


def accept_with_token(server: socket.socket, token: bytes, timeout_s: float) -> socket.socket | None:
    """Accept a connection whose first bytes are a token.

    Parameters
    ----------
    server : socket
        With a timeout of its own for the connection.
    token : bytes
        Of `TOKEN_BYTES`.
    timeout_s : float
        For the token, once connected.

    Returns
    -------
    socket or None
        None where no worker connected in time, or it had no token.
    """
    try:
        connected, _ = server.accept()
    except TimeoutError:
        return None
    connected.settimeout(timeout_s)
    try:
        received = connected.recv(TOKEN_BYTES, socket.MSG_WAITALL)
    except OSError:
        received = b""
    if not hmac.compare_digest(received, token):
        connected.close()
        return None
    connected.settimeout(None)
    if connected.family == socket.AF_INET:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected
