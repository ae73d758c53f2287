"""Start-up on other people's machines: odd paths, foreign settings, low limits, copied checkouts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

import bootstrap
from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts import credentials, settings
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY, Settings
from sightglass.local import components, supervise, up
from sightglass.local.components import LocalTopology
from sightglass.local.stack import Stack
from sightglass.measure import background
from tests.unit.ports import free_port
from tests.unit.test_runner import Bench, bench, pids

__all__ = ["bench"]

ODD = "a%2Fb #1 ;2 [3] {4}* é"
"""A folder as Jenkins makes it for a branch a/b, and other names that some program takes for syntax."""


def run(
    command: list[str], *, cwd: Path = REPOSITORY, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder in which the runner's socket has a path that is short enough."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# Paths


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_runner_takes_any_folder(bench: Bench, short: Path, locale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.delenv("LANG", raising=False)
    odd = short / ODD
    odd.mkdir()
    bench.settings = Settings(state_dir=odd)
    stack = bench.stack(bench.component("one", environment={"WORDS": "50% a ;b #c %2F"}, directory=odd))
    stack.bring_up()
    process = psutil.Process(pids(stack)["one"])
    assert (process.cwd(), process.environ()["WORDS"]) == (str(odd), "50% a ;b #c %2F")
    assert process.environ()["PYTHONUTF8"] == "1"
    assert "fake program starts" in (odd / "logs" / "one.log").read_text()
    stack.tear_down()
    assert bench.members() == []
    assert list(short.iterdir()) == [odd]


def test_promtail_is_told_the_folder_and_no_pattern(tmp_path: Path) -> None:
    odd = Settings(state_dir=tmp_path / ODD)
    odd.service_logs_dir.mkdir(parents=True)
    file = odd.service_logs_dir / "service.log"
    file.touch()
    glob = Path(LocalTopology(odd).log_glob())
    assert [*Path("/").glob(str(glob.relative_to("/")))] == [file]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a$b", "a\nb", "a "])
def test_folder_that_cannot_be_passed_on_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path / name))
    with pytest.raises(UserError, match=r"SIGHTGLASS_STATE_DIR is .* cannot be passed on .*: take another folder"):
        settings.load()


def test_ordinary_folders_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path / ODD / "Bob's"))
    assert settings.load().state_dir == tmp_path / ODD / "Bob's"


# HOME


def test_minio_starts_without_a_home_that_can_be_written(
    programs: Mapping[str, Path], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = {**up.PLANNED_PROGRAMS, "minio": programs["minio"]}
    monkeypatch.setenv("HOME", "/dev/null")
    for name in ("MINIO", "MINIO_CONSOLE"):
        monkeypatch.setenv(f"SIGHTGLASS_{name}_PORT", str(free_port()))
    made = Settings(state_dir=short / ODD)
    planned = components.build(made, credentials.Credentials(), at_hand, None)
    stack = Stack(made, [component for component in planned if component.name == "minio"])
    try:
        stack.bring_up()
        assert psutil.Process(pids(stack)["minio"]).environ()["HOME"] == "/dev/null"
    finally:
        stack.tear_down()


# Limits


LIMITED = """
import sys
from pathlib import Path
from sightglass.facts.settings import Settings
from sightglass.local.stack import Stack
from sightglass.facts.errors import UserError
try:
    Stack(Settings(state_dir=Path(sys.argv[1])), []).supervisor.start([])
except UserError as error:
    print(error.message)
"""


def test_too_few_open_files_say_what_to_set(tmp_path: Path) -> None:
    done = run(["bash", "-c", 'ulimit -n 512; exec "$@"', "bash", sys.executable, "-c", LIMITED, str(tmp_path / "s")])
    assert "may open only 512 files here, and 1024 are needed: raise the hard limit" in done.stdout, done.stdout
    assert supervise.Supervisor(tmp_path / "s").pid() is None


def test_programs_may_open_as_many_files_as_the_system_allows(short: Path) -> None:
    script = 'ulimit -Sn 256; ulimit -Hn 3000; exec "$@"'
    done = run(["bash", "-c", script, "bash", sys.executable, "-c", LIMITED, str(short)])
    supervisor = supervise.Supervisor(short)
    pid = supervisor.pid()
    assert pid, done.stdout
    try:
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (3000, 3000)
    finally:
        supervisor.shut_down(10)


ENDS_SLOWLY = "trap 'sleep 2; exit 0' TERM; echo ready; while :; do sleep 0.1; done"


def test_a_stack_that_is_being_stopped_can_be_stopped_and_says_so(short: Path) -> None:
    log = short / "logs" / "slow.log"
    supervisor = supervise.Supervisor(short)
    supervisor.start([components.Component("slow", ["bash", "-c", ENDS_SLOWLY], "", "", log)])
    supervisor.launch("slow")

    def runs() -> None:
        if "ready" not in log.read_text():
            raise NotYet("the trap is not set")

    polling.until(runs, timeout=10, what="the program that ends slowly")
    pid = supervisor.pid()
    assert pid
    os.kill(pid, signal.SIGTERM)

    def refused() -> str:
        try:
            supervisor.launch("slow")
        except UserError as error:
            return error.message
        raise NotYet("the supervisor has not seen the signal")

    said = polling.until(refused, timeout=10, what="the supervisor's end")
    assert said == "The stack is being stopped: run the command again when that is done."
    supervisor.stop("slow")
    supervisor.shut_down(10)
    assert supervisor.pid() is None
    with pytest.raises(UserError, match="is being stopped"):
        supervisor.update([])


# What is set for other programs


def test_make_takes_no_python_settings_of_the_person(tmp_path: Path) -> None:
    copy = tmp_path / "Makefile"
    copy.write_text((REPOSITORY / "Makefile").read_text() + "\nshown:\n\t@env\n")
    foreign = {"PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere", "BENTOML_CONFIG": "/elsewhere"}
    done = run(["make", "-f", str(copy), "shown"], cwd=tmp_path, environment={**foreign, "KEPT": "/elsewhere"})
    assert [line for line in done.stdout.splitlines() if "elsewhere" in line] == ["KEPT=/elsewhere"]
    assert "PYTHONUTF8=1" in done.stdout.splitlines()


def test_socks_proxy_is_named_where_pip_cannot_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    assert "set HTTPS_PROXY to an HTTP proxy" in bootstrap.about_socks()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert bootstrap.about_socks() == ""


# A copied or moved checkout


def test_environment_names_the_checkout_from_where_it_is(tmp_path: Path) -> None:
    paths = tmp_path / "é" / ".venv" / "lib" / "python3.11" / "site-packages" / "_sightglass.pth"
    paths.parent.mkdir(parents=True)
    paths.write_text(f"{tmp_path}/é\n{tmp_path}/é/example-service", encoding="utf-8")
    bootstrap.make_relative(paths)
    up = "../../../.."
    assert paths.read_text(encoding="ascii").splitlines() == [up, f"{up}/example-service"]


PROJECTS = ("pyproject.toml", "ml-telemetry/pyproject.toml")


def planned_by_make(folder: Path, made_in: Path) -> str:
    (folder / "ml-telemetry").mkdir()
    for name in ("Makefile", "bootstrap.py", "requirements-run.txt", "requirements.txt", *PROJECTS):
        shutil.copy(REPOSITORY / name, folder / name)
    ready = folder / ".venv" / "ready"
    ready.parent.mkdir()
    ready.write_text(f"{made_in}\n")
    return run(["make", "-n", "down"], cwd=folder).stdout


def test_copied_checkout_makes_its_environment_anew(tmp_path: Path) -> None:
    assert "bootstrap.py" in planned_by_make(tmp_path, REPOSITORY)


def test_checkout_that_was_not_moved_keeps_its_environment(tmp_path: Path) -> None:
    assert "bootstrap.py" not in planned_by_make(tmp_path, tmp_path)


def test_commands_of_a_copied_checkout_refuse_the_environment_of_the_original(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    left_out = shutil.ignore_patterns("__pycache__", ".*", "tests", "docs")
    shutil.copytree(REPOSITORY, copy, ignore=left_out)
    own = {"SIGHTGLASS_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "sightglass", "down"]
    copied = run(command, cwd=copy, environment=own)
    assert copied.returncode == 2, copied.stdout
    assert f"was made for the checkout {REPOSITORY}: run `make` in {copy}" in copied.stdout
    elsewhere = run([sys.executable, "-P", *command[1:]], cwd=copy, environment=own)
    assert f"was made for the checkout {REPOSITORY}" in elsewhere.stdout
    assert run(command, environment=own).stdout == "Nothing was running.\n"


# Programs that say much


def test_load_that_says_much_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; sys.stderr.write('x' * 1_000_000 + ' the end'); sys.exit(3)"
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", script))

    def ended() -> None:
        if process.poll() is None:
            raise NotYet("it runs")

    with pytest.raises(UserError, match=r"The load test failed: x+ the end$"), background.load() as process:
        polling.until(ended, timeout=20, what="its end")
