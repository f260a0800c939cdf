"""Both ends prove the pool's key before a payload byte is read.

    dialler                                listener
       │ ◀────────── nonce L (32) ────────────│
       │── nonce D (32) + proof D (32) ──────▶│   proof D = HMAC-SHA256(key, "dial" + L + D)
       │ ◀────────── proof L (32) ────────────│   proof L = HMAC-SHA256(key, "listen" + D + L)

All messages have a fixed size, so a stranger can make us hold 64 bytes at the most.
The two words in front keep one side's proof from being sent back to it as the other's.
"""

from __future__ import annotations

import hmac
import os

SIZE = 32
ANSWER = 2 * SIZE


def new_key() -> bytes:
    """Return a random key for one pool (32 bytes)."""
    return os.urandom(SIZE)


def _proof(key: bytes, side: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(key, side + first + second, "sha256")


class Listener:
    """The listening end: send `challenge`, then give `answer` the 64 bytes that come back."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.challenge = os.urandom(SIZE)

    def answer(self, message: bytes) -> bytes | None:
        """Return our proof for a dialler that proved the key, None for one that did not."""
        nonce, proof = message[:SIZE], message[SIZE:]
        if not hmac.compare_digest(proof, _proof(self._key, b"dial", self.challenge, nonce)):
            return None
        return _proof(self._key, b"listen", nonce, self.challenge)


class Dialler:
    """The dialling end: `answer` the challenge, then `check` the listener's proof."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = os.urandom(SIZE)
        self._challenge = b""

    def answer(self, challenge: bytes) -> bytes:
        self._challenge = challenge
        return self._nonce + _proof(self._key, b"dial", challenge, self._nonce)

    def check(self, proof: bytes) -> bool:
        """Return whether the listener knows the key too."""
        return hmac.compare_digest(proof, _proof(self._key, b"listen", self._nonce, self._challenge))
