"""Only a peer that knows the key passes, and no proof can be sent back as one's own."""

from __future__ import annotations

from mainstay.wire.auth import ANSWER, Dialler, Listener, new_key


def test_both_ends_prove_the_key():
    key = new_key()
    listener, dialler = Listener(key), Dialler(key)
    message = dialler.answer(listener.challenge)
    assert len(message) == ANSWER
    proof = listener.answer(message)
    assert proof is not None
    assert dialler.check(proof)


def test_a_wrong_key_is_refused_by_either_end():
    listener, dialler = Listener(new_key()), Dialler(new_key())
    assert listener.answer(dialler.answer(listener.challenge)) is None
    assert not dialler.check(bytes(32))


def test_an_echo_is_refused():
    listener = Listener(new_key())
    assert listener.answer(listener.challenge + listener.challenge) is None
