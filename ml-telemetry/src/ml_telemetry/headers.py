"""What callers say about addresses, read strictly: ``Host``, and the address of a client behind a proxy."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

# The authority of RFC 3986 without a user: a name, an IPv4 address or an IPv6 address in brackets, and a port.
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::([0-9]*))?")
# A name in DNS has 253 characters; the rest is for brackets and a port.
_LONGEST_HOST: Final = 272
_HIGHEST_PORT: Final = 65_535
_LONGEST_ADDRESS: Final = 64


class InvalidHost(Exception):  # noqa: N818 - the caller's mistake, not an error of the service
    """The ``Host`` header is none; the request cannot be served."""


def parse_host(value: bytes) -> tuple[str, int | None]:
    """Split a ``Host`` header into its name and its port; a port that no machine has is left out.

    Raises ``InvalidHost`` for what is no host.
    """
    match = _HOST.fullmatch(value) if len(value) <= _LONGEST_HOST else None
    if match is None:
        raise InvalidHost
    name, digits = match[1].decode("ascii"), match[2]
    if name.startswith("["):
        name = name.strip("[]")
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            raise InvalidHost from None
    port = int(digits) if digits else 0
    return name, port if 0 < port <= _HIGHEST_PORT else None


def parse_address(text: str) -> str:
    """Return an IP address as it is written, without a zone, or an empty text for anything else."""
    text = text.partition("%")[0]
    if len(text) > _LONGEST_ADDRESS:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
