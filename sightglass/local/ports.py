"""Ports of this machine that must be free before something listens there."""

import socket
from collections.abc import Mapping

from sightglass.facts.errors import UserError
from sightglass.facts.settings import HOST, PREFIX, Port
from sightglass.local import processes


def require_free(numbers: Mapping[Port, int]) -> None:
    """Raise :class:`UserError` about the first port at whose number somebody listens."""
    for port, number in numbers.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, number))
            except OSError:
                raise UserError(
                    f"Port {number} ({port.component}: {port.purpose}) is taken by {processes.listener(number)}: "
                    f"stop that, or set {port.variable} to a free port, "
                    f"or {PREFIX}PORT_OFFSET to move all ports, e.g. to 10000."
                ) from None
