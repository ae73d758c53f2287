"""What every test run has: whoever ends after it, nothing that it started does."""

import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sightglass.facts.settings import REPOSITORY
from sightglass.local import processes


@pytest.fixture(scope="session", autouse=True)
def _ended_with_the_run() -> Iterator[None]:
    """Mark what this run starts, and let another process end it when the run is gone, also by SIGKILL."""
    run = secrets.token_hex(8)
    command = [sys.executable, "-m", "tests.reaper", run]
    with pytest.MonkeyPatch.context() as patch:
        reaper = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, start_new_session=True)
        patch.setenv(processes.OWNER, run)
        yield
    assert reaper.stdin
    reaper.stdin.close()
    reaper.wait(60)
