"""A connection sends all that it is given, in order, whatever the kernel takes at once."""

from __future__ import annotations

import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.wire.connection import MOST_PIECES, Connection
from mainstay.wire.poller import Poller

PIECES = st.lists(st.integers(0, 40_000), max_size=8)


def sent(given_: list[list[bytes]]) -> bytes:
    """Return what the other end gets, which begins to read when all has been given."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.setblocking(False)
    poller, got = Poller(), b""
    with ours, theirs:
        connection = Connection(ours, poller)
        for pieces in given_:
            connection.send([memoryview(piece) if len(piece) % 2 else piece for piece in pieces])
        while len(got) < sum(len(piece) for pieces in given_ for piece in pieces):
            got += theirs.recv(1 << 20)
            poller.handle(poller.wait(0))
        connection.close()
    poller.close()
    return got


@settings(deadline=None, max_examples=40)
@given(st.lists(PIECES, max_size=6))
def test_what_the_kernel_does_not_take_at_once_follows_in_order(sizes):
    given_ = [[bytes([97 + i % 26]) * size for i, size in enumerate(row)] for row in sizes]
    assert sent(given_) == b"".join(piece for pieces in given_ for piece in pieces)


def test_more_pieces_than_one_call_takes():
    pieces = [b"%d," % i for i in range(3 * MOST_PIECES + 1)]
    assert sent([pieces]) == b"".join(pieces)


def test_a_peer_that_has_gone_is_no_error_here():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.close()
    poller = Poller()
    connection = Connection(ours, poller)
    connection.send([b"word"])
    connection.close([b"last word"])
    poller.close()
