"""What measures a running stack, at the size at which a person runs it: each ends well, and its table is printed."""

import subprocess
import sys

import pytest

from sightglass.facts.settings import REPOSITORY
from tests.integration.running import Running

BENCHES = ("drill", "latency", "cost", "neighbours")
"""The drill is first: what neighbours sends makes an alert fire. Links, proof and fuzz are with their short tests."""


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("bench", BENCHES)
def test_a_bench_meets_its_goals(stack: Running, bench: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"sightglass.measure.{bench}"],
        cwd=REPOSITORY,
        env={**stack.environment, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=3_500,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
