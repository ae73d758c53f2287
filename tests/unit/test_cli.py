"""The commands where nothing runs, as a person and as a program would call them."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.facts.settings import PORTS, REPOSITORY, Settings
from sightglass.local import state

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    own = {name: value for name, value in os.environ.items() if name != "YES"}
    environment = {**own, "SIGHTGLASS_STATE_DIR": str(tmp_path / "state"), "SIGHTGLASS_PORT_OFFSET": "31000"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sightglass", *arguments],
            cwd=REPOSITORY,
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
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
    assert components["loki"]["version"] == versions.load().servers["loki"].version
    assert done.returncode == 1


def test_status_names_a_disk_without_room(call: Call) -> None:
    full = call("status", "--json", SIGHTGLASS_STATE_DIR="/proc")
    assert "The disk of /proc is full" in json.loads(full.stdout)["disk"]
    assert "The disk of /proc is full" in call("status", SIGHTGLASS_STATE_DIR="/proc").stdout
    assert json.loads(call("status", "--json").stdout)["disk"] is None


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


def test_clean_removes_what_is_marked_as_ours_and_names_the_rest(call: Call, tmp_path: Path) -> None:
    home = tmp_path / "home"
    loaded = Settings(state_dir=home)
    home.mkdir()
    (home / "precious.txt").write_text("mine")
    state.claim(loaded)
    for name in state.OURS:
        if "." not in name:
            (home / name / "deep").mkdir(parents=True)
    (home / "credentials.json").write_text("{}")
    (home / "data" / "loki").mkdir()
    (home / "data" / "loki" / "chunk").write_text("a line")
    outside = tmp_path / "outside"
    outside.mkdir()
    (home / "load" / "link").symlink_to(outside)
    own = {"SIGHTGLASS_STATE_DIR": str(home)}
    asked = call("clean", **own)
    assert asked.returncode == 2
    assert "Nobody can be asked here: YES=1 says yes. Nothing was removed." in asked.stderr
    assert (home / "data" / "loki" / "chunk").exists()
    done = call("clean", **own, YES="1")
    assert done.returncode == 0, done.stderr
    assert f"{home} stays, with what is not of the stack: deep, precious.txt." in done.stdout
    left = {str(path.relative_to(home)) for path in home.rglob("*")}
    assert left == {"precious.txt", "data", "data/deep"}
    assert outside.exists()


def test_clean_removes_nothing_where_there_is_no_stack(call: Call, tmp_path: Path) -> None:
    for name in ("bentoml", "data", "logs"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "home" / "precious.txt").write_text("mine")
    done = call("clean", SIGHTGLASS_STATE_DIR=str(tmp_path / "home"), YES="1")
    assert (done.returncode, "There is no stack in" in done.stdout) == (0, True)
    assert len(list((tmp_path / "home").iterdir())) == 4


def test_folder_of_a_stack_is_gone_after_clean(call: Call, tmp_path: Path) -> None:
    loaded = Settings(state_dir=tmp_path / "state")
    state.claim(loaded)
    loaded.run_dir.mkdir()
    assert call("clean", YES="1").returncode == 0
    assert not loaded.state_dir.exists()


def test_stack_of_an_older_version_is_taken_over_and_removed(call: Call, tmp_path: Path) -> None:
    loaded = Settings(state_dir=tmp_path / "state")
    loaded.run_dir.mkdir(parents=True)
    loaded.data_dir("loki").mkdir(parents=True)
    state.claim(loaded)
    assert call("clean", YES="1").returncode == 0
    assert not loaded.state_dir.exists()


def test_names_that_others_took_first_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "bentoml").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="has bentoml and run of something else: set SIGHTGLASS_STATE_DIR"):
        state.claim(Settings(state_dir=tmp_path))
    assert not (tmp_path / state.MARK).exists()


def test_question_is_asked_and_no_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Settings(state_dir=tmp_path / "state")
    state.claim(loaded)
    loaded.run_dir.mkdir()
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(loaded.state_dir))
    monkeypatch.delenv("YES", raising=False)
    script = "from pathlib import Path; import sys; from sightglass.cli.commands import main; main(['clean'])"
    for answer, there in (("n", True), ("y", False)):
        master, terminal = pty.openpty()
        with os.fdopen(master, "r+b", buffering=0) as person:
            process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdin=terminal)
            person.write(f"{answer}\n".encode())
            process.wait(30)
        os.close(terminal)
        assert loaded.run_dir.exists() is there
