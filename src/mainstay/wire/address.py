"""Where the broker listens and how a process of the pool reaches it.

An abstract Unix socket (same host, no file), and TCP on each address that the client's host has: a cluster's hosts
have several networks, and not every node is on each.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

from mainstay.wire.auth import SIZE, Dialler

Address = tuple[str, int]  # ("@name", 0) for an abstract Unix socket, else (IP address, port)
DIAL_TIMEOUT = 5.0  # seconds for one address
HANDSHAKE_TIMEOUT = 10.0
SILENT = 60.0  # seconds without an acknowledgement after which the other host is taken for dead
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


def dial(addresses: list[Address], key: bytes) -> tuple[socket.socket, Address]:
    """Return a blocking socket to the client, after both ends proved the key, and the address that it is at.

    The Unix socket is tried first, then all the others at once, so that a network that swallows packets delays
    nobody. Raises `Unreachable` with every reason.
    """
    reasons: list[str] = []
    for sock, address in _connected(addresses, reasons):
        try:
            prove(sock, key)
            return sock, address
        except OSError as error:
            sock.close()
            reasons.append(f"{address[0]}:{address[1]}: {error}")
    raise Unreachable("could not reach the client at any of its addresses: " + "; ".join(reasons))


def _connected(addresses: list[Address], reasons: list[str]) -> Iterator[tuple[socket.socket, Address]]:
    """Yield sockets as they connect; those that are not asked for are closed at the end."""
    unix = [address for address in addresses if address[0].startswith("@")]
    for group in (unix, [address for address in addresses if address not in unix]):
        begun = {sock.fileno(): (sock, address) for sock, address in map(_begin, group)}
        poll = select.poll()
        for fd in begun:
            poll.register(fd, select.POLLOUT)
        deadline = time.monotonic() + DIAL_TIMEOUT
        try:
            while begun and (left := deadline - time.monotonic()) > 0:
                for fd, _ in poll.poll(left * 1000):
                    poll.unregister(fd)
                    sock, address = begun.pop(fd)
                    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _is_late(sock)
                    if error:
                        sock.close()
                        reasons.append(f"{address[0]}:{address[1]}: {os.strerror(error)}")
                    else:
                        yield sock, address
            reasons += [f"{host}:{port}: no answer in {DIAL_TIMEOUT:g} s" for _, (host, port) in begun.values()]
        finally:
            for sock, _ in begun.values():
                sock.close()


def _begin(address: Address) -> tuple[socket.socket, Address]:
    """Begin to connect; how it went is asked of the socket."""
    host, port = address
    is_unix = host.startswith("@")
    sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
    sock.setblocking(False)
    if not is_unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT * 1000))
    sock.connect_ex("\0" + host[1:] if is_unix else (host, port))
    return sock, address


def _is_late(sock: socket.socket) -> int:
    """Return the error of a socket that looks ready but has no peer; 0 if it has one."""
    try:
        sock.getpeername()
    except OSError:
        return errno.ECONNREFUSED
    return 0


def prove(sock: socket.socket, key: bytes) -> None:
    """Prove the key to the listener and have it prove it too; the socket blocks afterwards. Raises `OSError`."""
    sock.settimeout(HANDSHAKE_TIMEOUT)
    dialler = Dialler(key)
    sock.sendall(dialler.answer(_exactly(sock, SIZE)))
    if not dialler.check(_exactly(sock, SIZE)):
        raise ConnectionRefusedError("the listener does not know this pool's key")
    sock.settimeout(None)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionRefusedError("the connection was closed during the handshake")
        data += piece
    return data


def uid_of_peer(sock: socket.socket) -> int:
    """Return the user at the other end of a Unix socket."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
