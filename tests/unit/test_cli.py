"""The commands where nothing runs, as a person and as a program would call them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from sightglass.settings import PORTS, REPOSITORY

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    environment = {**os.environ, "SIGHTGLASS_STATE_DIR": str(tmp_path / "state"), "SIGHTGLASS_PORT_OFFSET": "31000"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sightglass", *arguments],
            cwd=REPOSITORY,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_dry_run_prints_the_plan_and_does_nothing(call: Call, tmp_path: Path) -> None:
    done = call("up", "--dry-run")
    assert done.returncode == 0, done.stderr
    order = [line.split(" ")[0].rstrip(",") for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert order[0] == "minio"
    assert order.index("loki") < order.index("collector") < order.index("promtail")
    for port in (known for known in PORTS if known.component in order):
        assert str(port.default + 31000) in done.stdout, port
    assert not (tmp_path / "state").exists()


def test_status_of_nothing(call: Call) -> None:
    done = call("status", "--json")
    components = json.loads(done.stdout)["components"]
    assert {"pid", "ready", "url", "version"} <= set(components["loki"])
    assert not any(component["ready"] or component["pid"] for component in components.values())
    assert components["loki"]["version"] == "3.7.6"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("env",), "There is no stack in"),
        (("verify",), "There is no stack in"),
        (("alerts",), "There is no stack in"),
        (("logs", "lokki"), "There is no component 'lokki': take one of"),
        (("logs", "loki"), "loki has no log yet"),
        (("stop", "lokki"), "There is no component 'lokki': take one of"),
        (("stop", "loki"), "The stack does not run: start it with `make up`"),
    ],
)
def test_each_mistake_gets_a_sentence_and_no_traceback(call: Call, arguments: tuple[str, ...], sentence: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"sightglass: {sentence}")
    assert "Traceback" not in done.stderr


def test_wrong_setting_ends_a_command_with_its_sentence(call: Call) -> None:
    done = call("status", SIGHTGLASS_LOKI_HTTP_PORT="high")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SIGHTGLASS_LOKI_HTTP_PORT is 'high'" in done.stderr


def test_down_of_nothing(call: Call) -> None:
    done = call("down")
    assert (done.returncode, done.stdout) == (0, "Nothing was running.\n")


def test_one_command_at_a_time_brings_a_stack_up_or_down(call: Call, tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "state.lock"):
        for command in ("up", "down", "clean"):
            done = call(command)
            assert (done.returncode, "is at work in" in done.stderr) == (2, True)
    assert call("down").returncode == 0


def test_clean_deletes_a_stacks_folder_only(call: Call, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "precious.txt").write_text("mine")
    done = call("clean")
    assert done.returncode == 2
    assert "does not look like a stack's folder" in done.stderr
    assert (state / "precious.txt").exists()
    (state / "run").mkdir()
    assert call("clean").returncode == 0
    assert not state.exists()
