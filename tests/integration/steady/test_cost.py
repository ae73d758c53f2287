"""The cost of a prediction, measured on a real stack for a short time: every figure is there and can be true."""

import re
import subprocess
import sys

from sightglass.facts.settings import REPOSITORY, SERVICE
from sightglass.measure.cost import BLOCKS, CHUNKS, COUNTERS
from tests.integration.running import Running


def test_costs_are_measured_on_a_running_stack(stack: Running) -> None:
    command = [sys.executable, "-m", "sightglass.measure.cost", "--users", "1", "--seconds", "12", "--idle", "10"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=stack.environment, capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^│ (.+?)\s+│.*?\s([\d,.-]+)\s+│$", done.stdout, re.MULTILINE))
    value = {name: float(text.replace(",", "")) for name, text in found.items()}
    lines, spans = (value[COUNTERS[place].name] for place in (1, 3))
    # One line and some spans for each prediction, nothing lost and nothing twice.
    assert 990 < lines < 1_050, done.stdout
    assert 4_000 < spans < 10_000, done.stdout
    assert all(value[name] > 0 for name in (CHUNKS, BLOCKS)), done.stdout
    assert 10 < value[f"active series, one instance of {SERVICE}"] < value["active series, all"], done.stdout
