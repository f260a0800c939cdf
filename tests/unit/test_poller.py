"""What a poller does with what was ready, when handlers change what it watches."""

from __future__ import annotations

import os

from mainstay.wire.poller import Poller


class Pipe:
    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()

    def fileno(self) -> int:
        return self.reads


def test_a_descriptor_that_took_a_free_number_is_not_taken_for_ready():
    poller, first, second = Poller(), Pipe(), Pipe()
    came: list[str] = []
    third: list[Pipe] = []

    def replace(other: Pipe) -> None:
        if third:
            return
        poller.forget(other)
        os.close(other.reads)
        third.append(Pipe())
        assert third[0].reads == other.reads
        poller.watch(third[0], lambda events: came.append("third"))

    poller.watch(first, lambda events: replace(second))
    poller.watch(second, lambda events: replace(first))
    for pipe in (first, second):
        os.write(pipe.writes, b"x")
    poller.handle(poller.wait(1))
    assert came == []
    poller.close()
    for fd in {first.reads, second.reads, first.writes, second.writes, third[0].reads, third[0].writes}:
        os.close(fd)
