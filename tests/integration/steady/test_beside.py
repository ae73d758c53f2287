"""The proof beside others' traffic, by the command that a person types."""

import re
import subprocess
import sys

import pytest

from sightglass.facts.settings import REPOSITORY
from sightglass.measure.proof import RATES, RUNS
from tests.integration.running import Running


def prove(stack: Running, *arguments: str, timeout: float) -> dict[str, tuple[int, int]]:
    """Green runs and runs for each line of the table."""
    done = subprocess.run(
        [sys.executable, "-m", "sightglass.measure.proof", *arguments],
        cwd=REPOSITORY,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    print(done.stdout)
    found = re.findall(r"^│ (\S.*?) +│ +\d+ │ +(\d+) of (\d+) │", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: (int(green), int(runs)) for name, green, runs in found}


def test_the_proof_is_green_beside_others_and_beside_itself(stack: Running) -> None:
    assert prove(stack, "--rates", "15", "--runs", "2", "--together", "2", timeout=200) == {
        "15": (2, 2),
        "2 at once": (2, 2),
    }


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_proof_is_green_at_every_rate(stack: Running) -> None:
    found = prove(stack, timeout=3500)
    assert found == {**dict.fromkeys(RATES, (RUNS, RUNS)), "4 at once": (4, 4)}
