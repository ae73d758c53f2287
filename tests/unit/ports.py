"""Ports for what a test starts, or wants nobody at."""

import random
import socket

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
