"""What the commands for people run, as make itself says; and the seconds that CI prints of each part."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from sightglass.cli.elsewhere import COMMANDS
from sightglass.facts.settings import REPOSITORY
from tests.integration.benches.test_benches import BENCHES
from tests.unit.conftest import Built

HANDED_ON = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "TIMER")
TIMED = REPOSITORY / ".ci" / "timed"


def commands(target: str, **variables: str) -> str:
    """What make would run; it runs nothing."""
    words = [f"{name}={value}" for name, value in variables.items()]
    # Of the make that runs this test nothing is handed on.
    own = {name: value for name, value in os.environ.items() if name not in HANDED_ON}
    command = ["make", "-n", target, *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=own, capture_output=True, text=True, check=True)
    return done.stdout


def test_unit_tests_build_no_server() -> None:
    assert "sightglass servers" not in commands("unit")
    assert "sightglass servers" in commands("integration")


def test_long_tests_are_run_by_one_target_only() -> None:
    assert [target for target in ("unit", "integration", "cluster") if '-m "not long"' not in commands(target)] == []
    assert "pytest -m long" in commands("test-long")


def test_what_runs_beside_the_integration_tests_is_run_once() -> None:
    (file,) = re.findall(r"^PATIENT := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert (REPOSITORY / file).exists()
    whole = commands("test")
    assert "integration patient" in whole
    assert f'unit cluster ARGS=" --ignore={file}"' in whole
    assert f'-m "not long" {file} >' in commands("patient")
    # By itself `make unit` leaves nothing out.
    assert "--ignore" not in commands("unit")


def test_every_measurement_is_among_the_long_tests() -> None:
    # What times the dashboards' queries is a part of the drill.
    measured = [one for one in COMMANDS if one.where.startswith("sightglass.measure") and one.name != "queries"]
    offered = {one.where.partition(":")[0] for one in measured if f"sightglass {one.name}" in commands(str(one.name))}
    beside_their_tests = {"sightglass.measure.link_seconds", "sightglass.measure.proof"}
    assert "sightglass bench" in commands("test-long")
    assert offered == {
        "sightglass.measure.overhead",
        *beside_their_tests,
        *(f"sightglass.measure.{bench}" for bench in BENCHES),
    }


def test_a_program_that_is_not_built_skips_its_test_by_name(tmp_path: Path) -> None:
    built = Built({"loki": tmp_path})
    assert built["loki"] == tmp_path
    with pytest.raises(pytest.skip.Exception, match="needs otelcol, which is not built yet"):
        built["otelcol"]


def timed(notes: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIMES": str(notes)}
    return subprocess.run([str(TIMED), *words], env=environment, capture_output=True, text=True, check=False)


def test_parts_are_timed_with_the_status_of_their_commands(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    assert timed(notes, "check", "true").returncode == 0
    assert timed(notes, "unit", "sh", "-c", "exit 3").returncode == 3
    with notes.open("a") as file:
        file.write("check\t61.0\n")
    assert [line.split() for line in timed(notes).stdout.splitlines()] == [
        ["check", "1", "min", "1", "s"],
        ["unit", "0", "min", "0", "s"],
    ]


def test_every_part_of_the_tests_is_timed() -> None:
    for part in ("check", "servers", "unit", "patient", "integration", "cluster"):
        assert f"a-timer {part} " in commands(part, TIMER="a-timer")
        assert "a-timer" not in commands(part)
