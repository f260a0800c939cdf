"""Where the broker listens and how a process of the pool reaches it.

Three kinds of address, tried in this order: an abstract Unix socket (same host, no file), then TCP on each
address that the client's host has. A worker tries them all, since a cluster's hosts have several networks.
"""

from __future__ import annotations

import socket
import time

from mainstay.wire.auth import SIZE, Dialler

Address = tuple[str, int]  # ("@name", 0) for an abstract Unix socket, else (IP address, port)
DIAL_TIMEOUT = 5.0  # seconds for one address
HANDSHAKE_TIMEOUT = 10.0
SIOCGIFADDR = 0x8915


class Unreachable(OSError):
    """No address of the client could be reached, or none knew the key."""


def to_text(addresses: list[Address]) -> str:
    """Return the addresses as one word that fits into an environment variable."""
    return ",".join(f"{host}|{port}" for host, port in addresses)


def from_text(text: str) -> list[Address]:
    """Return the addresses that `to_text` wrote."""
    pairs = (item.rpartition("|") for item in text.split(","))
    return [(host, int(port)) for host, _, port in pairs]


def own_addresses() -> list[str]:
    """Return this host's IPv4 addresses, the loopback last; needs no name to resolve."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(sock.fileno(), SIOCGIFADDR, name.encode().ljust(256, b"\0"))
            except OSError:
                continue  # an interface without an address
            found.append(socket.inet_ntoa(answer[20:24]))
    return sorted(found, key=lambda ip: ip.startswith("127."))


def dial(addresses: list[Address], key: bytes, patience: float = 0.0) -> socket.socket:
    """Return a blocking socket to the client, after both ends proved the key.

    Each address is tried once; while `patience` seconds last, again. Raises `Unreachable` with every reason.
    """
    deadline = time.monotonic() + patience
    while True:
        reasons = []
        for address in addresses:
            try:
                return _dial_one(address, key)
            except OSError as error:
                reasons.append(f"{address[0]}:{address[1]}: {error}")
        if time.monotonic() >= deadline:
            raise Unreachable("could not reach the client at any of its addresses: " + "; ".join(reasons))
        time.sleep(0.1)


def _dial_one(address: Address, key: bytes) -> socket.socket:
    sock = _connect(address)
    try:
        sock.settimeout(HANDSHAKE_TIMEOUT)
        dialler = Dialler(key)
        sock.sendall(dialler.answer(_exactly(sock, SIZE)))
        if not dialler.check(_exactly(sock, SIZE)):
            raise ConnectionRefusedError("the listener does not know this pool's key")
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return sock


def _connect(address: Address) -> socket.socket:
    host, port = address
    if host.startswith("@"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect("\0" + host[1:])
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((host, port), timeout=DIAL_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionRefusedError("the connection was closed during the handshake")
        data += piece
    return data
