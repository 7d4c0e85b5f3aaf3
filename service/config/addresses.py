"""Addresses and names that cannot be used: what is wrong, and what to write instead.

No value is quoted: where a URL is torn in the wrong place, any part of it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote

from pamqp.constants import DOMAIN_REGEX
from sqlalchemy.engine import URL, make_url

# What pamqp, which writes the frames, lets pass: https://github.com/gmr/pamqp
MAX_QUEUE_NAME, MAX_EXCHANGE_NAME, MAX_VHOST_NAME = 255, 127, 127
MAX_SHORT_STRING_BYTES = 255  # of AMQP 0-9-1
MAX_PORT = 65535
UNSAFE_ARGUMENT = "no_verify_ssl"
_PLAIN = re.compile(r"[A-Za-z][\w.-]{0,40}")

Remedies = Sequence[tuple[Iterable[str], str]]

# The first line with a part of the argument's name, in lower case and without - and _, counts.
_TLS = ("ssl", "tls", "certificate", "cacert", "certfile", "keyfile", "cafile", "capath", "cadata")
_DATABASE: Remedies = (
    ((*_TLS, "publickey"), "TLS is asked for with DB_TLS and DB_TLS_CA: remove it"),
    (("connecttimeout",), "the deadline of connecting is DB_CONNECT_TIMEOUT_SECONDS: remove it"),
    (("timeout",), "the deadline of a transaction is DB_TIMEOUT_SECONDS: remove it"),
    (("pool", "connectionlimit"), "the size of the pool is DB_POOL_SIZE: remove it"),
    (("timezone", "loc"), "the session's time zone is always UTC: remove it"),
    (("sqlmode",), "the session's SQL mode is the service's own: remove it"),
    (("init",), "the session is set up by the service: remove it"),
    (("encoding", "collation"), "the connection always uses utf8mb4: remove it"),
)
_BROKER: Remedies = (
    (
        (*_TLS, "verify", "servername"),
        "TLS is asked for with MQ_TLS and MQ_TLS_CA: remove it",
    ),
    (("heartbeat",), "heartbeats are set with MQ_HEARTBEAT_SECONDS: remove it"),
    (("timeout",), "the deadline of connecting is MQ_CONNECT_TIMEOUT_SECONDS: remove it"),
    (("vhost", "virtualhost"), "the vhost is MQ_VHOST, or the path of the URL: remove it"),
)


def queue_name(name: str) -> str:
    """The name, where the client can send it and the broker takes it; else a ValueError."""
    return _amqp_name(name, MAX_QUEUE_NAME, "queue-name")


def exchange_name(name: str) -> str:
    """The name, where the client can send it and the broker takes it; else a ValueError."""
    return _amqp_name(name, MAX_EXCHANGE_NAME, "exchange-name")


def host_name(host: str | None) -> str | None:
    """The host, where it can be looked up; else a ValueError."""
    if host is not None and (why := _host_fault(host)) is not None:
        raise ValueError(why)
    return host


def database_faults(given: str) -> list[str]:
    """What is wrong with a MySQL URL, in sentences that begin with DATABASE_URL."""
    url, known = make_url(given), ("charset", "unix_socket")
    faults = _argument_faults("DATABASE_URL", _arguments(given, url), _DATABASE, known=known)
    socket = url.query.get("unix_socket")
    if socket is not None and not str(socket).startswith("/"):
        faults.append("DATABASE_URL: unix_socket: write an absolute path")
    if url.host is not None and (why := _host_fault(url.host)) is not None:
        faults.append(f"DATABASE_URL: its host is {why}")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        faults.append(f"DATABASE_URL: its port is not one of 1 to {MAX_PORT}")
    if not url.database:
        faults.append("DATABASE_URL names no database: let it end in /NAME")
    return faults


def sqlite_faults(given: str) -> list[str]:
    """What is wrong with a SQLite URL, in sentences that begin with DATABASE_URL."""
    url = make_url(given)
    if url.host or url.username or url.port:
        return ["DATABASE_URL names a host, and SQLite has none: write sqlite:///FILE"]
    return _argument_faults("DATABASE_URL", _arguments(given, url), ())


def broker_faults(parts: SplitResult) -> list[str]:
    """What is wrong with an AMQP URL, given or made of the parts."""
    if parts.fragment or "@" in parts.query:
        sign, written = ("#", "%23") if parts.fragment else ("?", "%3F")
        return [f"MQ_URL has a {sign} too many: write one in a password as {written}"]
    arguments = dict(parse_qsl(parts.query, keep_blank_values=True))
    faults = _argument_faults("MQ_URL", arguments, _BROKER, known=(UNSAFE_ARGUMENT,))
    if (why := _host_fault(parts.hostname or "")) is not None:
        faults.append(f"MQ_URL: its host is {why}")
    vhost = unquote(parts.path.removeprefix("/"))
    if len(vhost) > MAX_VHOST_NAME or len(vhost.encode()) > MAX_SHORT_STRING_BYTES:
        faults.append(
            f"the vhost (MQ_VHOST) is too long: at most {MAX_VHOST_NAME} characters, "
            f"and {MAX_SHORT_STRING_BYTES} bytes in UTF-8"
        )
    return faults


def verification_is_off(parts: SplitResult) -> bool:
    return dict(parse_qsl(parts.query)).get(UNSAFE_ARGUMENT, "0") != "0"


def _arguments(given: str, url: URL) -> dict[str, Any]:
    """All of them: SQLAlchemy leaves out those without a value."""
    query = given.rpartition("@")[2].partition("?")[2]
    return dict(parse_qsl(query, keep_blank_values=True)) | dict(url.query)


def _argument_faults(
    variable: str, arguments: Iterable[str], remedies: Remedies, *, known: Sequence[str] = ()
) -> list[str]:
    faults = []
    for name in arguments:
        if name not in known:
            named = name if _PLAIN.fullmatch(name) else "an argument"
            faults.append(f"{variable}: {named}: {_remedy(name, remedies)}")
    return faults


def _remedy(name: str, remedies: Remedies) -> str:
    plain = name.lower().replace("-", "").replace("_", "")
    for parts, words in remedies:
        if any(part in plain for part in parts):
            return words
    return "the service does not know this argument: remove it"


def _amqp_name(name: str, longest: int, kind: str) -> str:
    if len(name) > longest:
        raise ValueError(f"longer than {longest} characters")
    if not DOMAIN_REGEX[kind].fullmatch(name):
        raise ValueError(
            "holds a character that the AMQP client cannot send: "
            "use ASCII letters, digits, spaces and - _ . : @ # , / +"
        )
    if name.startswith("amq."):
        raise ValueError("names that begin with amq. are RabbitMQ's own: choose another")
    return name


def _host_fault(host: str) -> str | None:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return None
    if "://" in host:
        return "a URL, not a host: set DATABASE_URL or MQ_URL to it"
    name, colon, port = host.rpartition(":")
    if colon and name and port.isdigit():
        return "a host with a port: set DB_PORT or MQ_PORT to that"
    try:
        host.encode("idna")  # as the socket module does
    except UnicodeError:
        return "no host name"
    return "no host name" if re.search(r"[\s:/@?#\[\]]", host) or not host else None
