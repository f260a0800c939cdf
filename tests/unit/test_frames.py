"""Frames survive any way of being cut into pieces, and large ones are received without a copy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.wire.frames import CHUNK, Frame, FrameReader, Kind, encode


def feed(reader: FrameReader, data: bytes, step: int) -> list[Frame]:
    frames, at = [], 0
    while at < len(data):
        space = reader.get_buffer()
        assert space.nbytes > 0
        count = min(step, space.nbytes, len(data) - at)
        space[:count] = data[at : at + count]
        at += count
        frames += reader.received(count)
    return frames


def joined(pieces: list[bytes | bytearray | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


records = st.tuples(st.binary(max_size=300), st.lists(st.binary(max_size=200), max_size=3), st.integers(0, 2**64 - 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(records, max_size=20), st.integers(1, 700))
def test_frames_come_back_whatever_the_pieces(written, step):
    data = b"".join(
        joined(encode(Kind.CALL, body, [memoryview(b) for b in buffers], number=7, task=task, attempt=2))
        for body, buffers, task in written
    )
    read = feed(FrameReader(), data, step)
    assert [(bytes(f.body), [bytes(b) for b in f.buffers], f.task) for f in read] == [
        (body, buffers, task) for body, buffers, task in written
    ]
    assert all((f.kind, f.number, f.attempt) == (Kind.CALL, 7, 2) for f in read)


@pytest.mark.parametrize("size", [CHUNK // 2, CHUNK // 2 + 1, CHUNK, 5 * CHUNK + 3])
@pytest.mark.parametrize("step", [1000, 1 << 30])
def test_large_bodies(size, step):
    body = bytes(range(256)) * (size // 256 + 1)
    data = joined(encode(Kind.RESULT, body[:size])) + joined(encode(Kind.RESULT, b"next"))
    first, second = feed(FrameReader(), data, step)
    assert bytes(first.body) == body[:size]
    assert second.body == b"next"


def test_a_long_list_of_buffers_is_held():
    buffers = [memoryview(b"ab")] * 60_000
    (frame,) = feed(FrameReader(), joined(encode(Kind.CALL, b"x", buffers)), 1 << 30)
    assert len(frame.buffers) == 60_000


def test_a_bounded_reader_refuses_more():
    with pytest.raises(ValueError, match="64 bytes are allowed"):
        feed(FrameReader(limit=64), joined(encode(Kind.CALL, b"x" * 65)), 1 << 30)
