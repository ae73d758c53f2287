"""Ports for what a test starts, or wants nobody at."""

import random
import socket

from sightglass.facts.settings import HOST, PORTS

_RANGE = range(25000, 30000)
"""Below what systems give to whoever asks for any port, and off the stack's own."""


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and that nobody gets who did not ask for this very number."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := random.choice(_RANGE)))
            except OSError:
                continue
            return port


def free_offset() -> int:
    """An offset that leaves all ports of a stack free, and below those that the system gives to clients."""
    for offset in random.sample(range(13_000, 19_000), 1_000):
        if all(_is_free(port.default + offset) for port in PORTS):
            return offset
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A port that a client had a moment ago can be had.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
