"""Ports of this machine that must be free before something listens there."""

import socket
from collections.abc import Mapping

from sightglass import processes
from sightglass.errors import UserError
from sightglass.settings import HOST, PORTS, PREFIX


def require_free(numbers: Mapping[str, int]) -> None:
    """Raise :class:`UserError` about the first number, by the port's name, at which somebody listens."""
    for port in PORTS:
        if port.name not in numbers:
            continue
        number = numbers[port.name]
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
