"""Whether a server answers, and as what: the first bytes of its protocol name its version.

Nothing is logged in and no client library is needed. A frozen or absent server answers None.
"""

import socket

SECONDS = 2.0
AMQP_0_9_1 = b"AMQP\x00\x00\x09\x01"
MYSQL_PROTOCOL = b"\x0a"
# A field of the server's properties: the name behind its length, then the type, a long string.
VERSION_FIELD = b"\x07versionS"


def mysql_version(host: str, port: int, seconds: float = SECONDS) -> str | None:
    """Packet: length (3 bytes), number, protocol (10), version, NUL."""
    try:
        with socket.create_connection((host, port), seconds) as link:
            header = _read(link, 4)
            greeting = _read(link, int.from_bytes(header[:3], "little"))
    except OSError:
        return None
    if greeting[:1] != MYSQL_PROTOCOL:
        return None
    version = greeting[1 : greeting.index(0, 1)].decode("ascii", "replace")
    return version.removeprefix("5.5.5-")  # MariaDB puts this before its own


def rabbitmq_version(host: str, port: int, seconds: float = SECONDS) -> str | None:
    """Frame: type, channel (2 bytes), length (4 bytes), here Connection.Start."""
    try:
        with socket.create_connection((host, port), seconds) as link:
            link.sendall(AMQP_0_9_1)
            header = _read(link, 7)
            start = _read(link, int.from_bytes(header[3:7], "big"))
    except OSError:
        return None
    _, found, rest = start.partition(VERSION_FIELD)
    length = int.from_bytes(rest[:4], "big")
    return rest[4 : 4 + length].decode("ascii", "replace") if found else None


def _read(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            raise ConnectionError("the server hung up")
        data += piece
    return data
