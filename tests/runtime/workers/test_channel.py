"""Messages arrive whole and in order, each descriptor with the message that it is for."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from trisect.runtime.workers.channel import TOKEN_BYTES, Channel, ChannelClosed, accept_with_token


@pytest.fixture
def ends():
    first, second = (Channel(end) for end in socket.socketpair())
    yield first, second
    first.close()
    second.close()


def test_messages_of_all_sizes(ends):
    sizes = [0, 1, 3, 4, 65_531, 65_536, 65_537, 3_000_000, 0, 5]

    def send() -> None:
        for size in sizes:
            ends[0].send(bytes([size % 251]) * size)

    sender = threading.Thread(target=send)
    sender.start()
    for size in sizes:
        assert ends[1].receive() == bytes([size % 251]) * size
    sender.join()


@pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="descriptors travel over Unix sockets")
def test_descriptors_keep_to_their_messages_whatever_is_sent_around_them(ends):
    """A message without one, read in the same breath, must not swallow the next one's."""
    files = [os.memfd_create(f"file {number}") if hasattr(os, "memfd_create") else os.dup(0) for number in range(4)]
    for number, file in enumerate(files):
        ends[0].send(b"plain")
        ends[0].send(b"with %d" % number, [file])
        ends[0].send(b"plain")
    for number, file in enumerate(files):
        assert ends[1].receive() == b"plain"
        assert ends[1].receive() == b"with %d" % number
        came = ends[1].take_descriptor()
        assert os.fstat(came).st_ino == os.fstat(file).st_ino
        os.close(came)
        assert ends[1].receive() == b"plain"
    with pytest.raises(ChannelClosed, match="without its file descriptor"):
        ends[1].take_descriptor()
    for file in files:
        os.close(file)


def test_waiting_readers_are_notified_when_the_channel_closes(ends):
    raised: list[type] = []

    def wait() -> None:
        try:
            ends[1].receive()
        except ChannelClosed:
            raised.append(ChannelClosed)

    waiter = threading.Thread(target=wait)
    waiter.start()
    ends[0].close()
    waiter.join(10)
    assert raised == [ChannelClosed]
    with pytest.raises(ChannelClosed):
        ends[1].send(b"x" * 1_000_000)


def test_an_excessive_length_is_refused():
    raw, end = socket.socketpair()
    channel = Channel(end)
    raw.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ChannelClosed, match="unexpected message of 4294967295 bytes"):
        channel.receive()
    raw.close()
    channel.close()


@pytest.mark.parametrize(("sent", "is_accepted"), [
    (b"t" * TOKEN_BYTES, True), (b"u" * TOKEN_BYTES, False), (b"t" * (TOKEN_BYTES - 1), False), (b"", False),
])  # fmt: skip
def test_only_connections_with_the_token_are_accepted(sent, is_accepted):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        with socket.create_connection(server.getsockname()) as stranger:
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            accepted = accept_with_token(server, b"t" * TOKEN_BYTES, 20)
            assert (accepted is not None) == is_accepted
            if accepted is not None:
                accepted.sendall(b"welcome")
                accepted.close()
            assert stranger.recv(7, socket.MSG_WAITALL) == (b"welcome" if is_accepted else b"")


def test_without_a_connection_the_result_is_none():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        assert accept_with_token(server, b"t" * TOKEN_BYTES, 20) is None
