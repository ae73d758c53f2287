"""A test run that is killed leaves nothing that it started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import REPOSITORY
from sightglass.local import processes
from tests.integration.running import private

STARTS = """
import os, subprocess, sys, time
from pathlib import Path
from tests.unit.test_runner import Bench

STATE = Path(os.environ["STATE"])

def test_sleeps():
    bench = Bench(STATE)
    bench.stack(bench.component("one", "--stubborn")).bring_up()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (STATE / "is-up").touch()
    time.sleep(600)
"""


def members(state: Path) -> list[str]:
    """What the killed run started: the programs of its stack, and a program of its own."""
    owners = [process.environ()[processes.OWNER] for process in processes.find(lambda it: it.startswith(f"{state}#"))]
    found = processes.find(lambda owner: owner in owners, processes.OWNER)
    return [f"{process.pid} {process.cmdline()}" for process in found]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_nothing_is_left_of_a_run_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    state, file = tmp_path / "s", tmp_path / "test_sleeps.py"
    file.write_text(STARTS)
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(file)]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options],
        cwd=REPOSITORY,
        env={**os.environ, "STATE": str(state)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:

        def up() -> list[str]:
            if not (state / "is-up").exists():
                if run.poll() is not None:
                    raise polling.GiveUp("the run ended")
                raise NotYet("no stack")
            return members(state)

        try:
            # The supervisor, its guardian, its program, and the program of the run itself.
            there = polling.until(up, timeout=60, what="the stack of the run")
            assert len(there) >= 4, there
        finally:
            os.killpg(run.pid, number)

    def gone() -> None:
        left = [one for one in there if Path(f"/proc/{one.split()[0]}/cmdline").exists()]
        if left:
            raise NotYet(str(left))

    polling.until(gone, timeout=30, what="the end of all that the run started")


def test_mount_ends_with_the_programs_that_see_it(tmp_path: Path) -> None:
    if not private():
        pytest.skip("needs unshare --mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs small "$0" && touch "$0/seen" && echo mounted && read -r line'
    with subprocess.Popen(
        [*private(), "sh", "-c", script, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("needs the right to mount")
        assert (Path(f"/proc/{holder.pid}/root") / disk.relative_to("/") / "seen").exists()
        assert list(disk.iterdir()) == []
        holder.kill()
    assert str(disk) not in Path("/proc/self/mounts").read_text()
