"""The names by which the web port may be asked for.

A page from elsewhere can rebind its own name to this port, and is then, to the browser, of one
origin with us. Its requests still carry that name in `Host`. An address is no name and cannot be
rebound, and no public name is without a dot.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

ANY = "*"
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+?)\.?)(?::\d{1,5})?")
_NAME = re.compile(r"\*|(\*\.)?[a-z0-9._-]+|[0-9a-f:.]+")


def host_of(header: str) -> str | None:
    """The name or address in a `Host` header, in lower case, without port; None if malformed."""
    found = _HOST.fullmatch(header)
    return (found["six"] or found["name"]).lower() if found else None


def parse_names(text: str) -> tuple[str, ...]:
    """Names and addresses from a list with commas.

    Raises:
        ValueError: one of them is none.
    """
    names = tuple(name for each in text.split(",") if (name := each.strip().lower()))
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"not a host name: {name!r}; write names without scheme and port, with commas "
                "between them (orders.example, *.example, or * for any)"
            )
    return names


@dataclass(frozen=True, slots=True)
class Hosts:
    """The accepted names: those configured, and loopback or (`private`) what no page can rebind."""

    names: tuple[str, ...] = ()
    private: bool = False

    def accept(self, host: str) -> bool:
        if host == "localhost" or _matches(host, self.names):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return self.private and "." not in host
        return self.private or address.is_loopback


def _matches(host: str, names: Iterable[str]) -> bool:
    return any(
        name in {host, ANY} or (name.startswith("*.") and host.endswith(name[1:])) for name in names
    )
