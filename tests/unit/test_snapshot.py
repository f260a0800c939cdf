"""What may still change is pickled at once; what cannot is left as it is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mainstay.wire.snapshot import Snapshot, lasting


def returned(make):
    return next(lasting(result) for result in map(make, [0]))


@pytest.mark.parametrize("value", [1, 2.5, "text", b"bytes", None, (1, "a"), np.float64(3)])
def test_what_cannot_change_is_left_as_it_is(value):
    assert lasting(value) is value


def test_an_array_that_nobody_else_holds_is_left_as_it_is():
    assert type(returned(lambda _: np.zeros(3))) is np.ndarray


held = np.zeros(3)
records = np.zeros(2, dtype=[("a", int)])


@pytest.mark.parametrize(
    "make",
    [
        lambda _: held,
        lambda _: held[:1],
        lambda _: np.zeros(3)[:1],
        lambda _: np.array([held], dtype=object),
        lambda _: records[0],
        lambda _: (held,),
        lambda _: [1],
        lambda _: np.ma.masked_array([1], [0]),
    ],
)
def test_what_may_change_is_pickled_at_once(make):
    assert type(returned(make)) is Snapshot


def test_a_snapshot_is_unpickled_as_what_it_was_made_of_and_can_be_written():
    array = np.arange(3)
    kept = lasting({"a": array})
    array[:] = 7
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(kept, 5, buffer_callback=buffers.append)
    found = pickle.loads(body, buffers=buffers)["a"]
    assert found.tolist() == [0, 1, 2]
    found[0] = 5
