"""A load test that runs beside what watches it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY

COMMAND = (sys.executable, "-m", "load_testing")
_SHOWN = 4000
"""Bytes of its errors that are shown."""


@contextmanager
def load(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The load test with these options, ended with the context; a failure of its own is a :class:`UserError`."""
    # A file takes whatever it says. A pipe that nobody reads takes 64 KiB, and then it would wait for ever.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*COMMAND, *options], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=said)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
        if process.returncode:
            said.seek(max(0, said.seek(0, 2) - _SHOWN))
            raise UserError(f"The load test failed: {said.read().decode(errors='replace').strip()}")
