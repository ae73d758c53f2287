"""The runner with real processes that behave badly."""

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.errors import UserError
from sightglass.facts.settings import PORTS, Settings
from sightglass.local import logfiles, processes
from sightglass.local.components import Component
from sightglass.local.stack import Stack, last_lines
from tests.unit.ports import free_port

FAKE = Path(__file__).with_name("fake_program.py")


class Bench:
    """A state folder, and the stacks that were started in it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(state_dir=folder)
        self.ports: dict[str, int] = {}

    def component(self, name: str, *options: str, after: tuple[str, ...] = (), **more: object) -> Component:
        port = self.ports.setdefault(name, free_port())
        url = f"http://127.0.0.1:{port}/"
        return Component(
            name=name,
            command=[sys.executable, str(FAKE), "--port", str(port), *options],
            ready_url=url,
            url=url,
            log=self.settings.logs_dir / f"{name}.log",
            after=after,
            stop_seconds=1,
            **more,  # type: ignore[arg-type]
        )

    def stack(self, *components: Component) -> Stack:
        return Stack(self.settings, components)

    def members(self) -> list[psutil.Process]:
        return processes.find(lambda marker: marker.startswith(f"{self.settings.state_dir}#"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "s")
    yield made
    processes.end(lambda marker: marker.startswith(f"{made.settings.state_dir}#"), grace=0)


def pids(stack: Stack) -> dict[str, int]:
    return {name: state.pid for name, state in stack.supervisor.states().items() if state.pid}


def test_starts_in_dependency_order_and_leaves_no_process(bench: Bench) -> None:
    order: list[str] = []
    stack = bench.stack(bench.component("second", after=("first",)), bench.component("first"))
    stack.bring_up(report=lambda name, _: order.append(name))
    assert order == ["first", "second"]
    assert {status.name: status.ready for status in stack.status()} == {"first": True, "second": True}
    assert len(bench.members()) >= 4  # supervisor, guardian, two programs
    assert stack.tear_down()
    assert bench.members() == []
    assert not stack.tear_down()


def test_what_comes_after_an_unready_program_is_not_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightglass.local.stack.READY_TIMEOUT", 1.0)
    first = bench.component("first", "--unready")
    stack = bench.stack(first, bench.component("second", after=("first",)))
    with pytest.raises(UserError, match=r"first to become ready; last seen: .*first\.log"):
        stack.bring_up()
    assert set(pids(stack)) == {"first"}

    def answers() -> None:
        try:
            httpx.get(first.ready_url, trust_env=False)
        except httpx.TransportError as error:
            raise NotYet(str(error)) from None

    # Now it had all the time that it takes to start.
    polling.until(answers, timeout=60, what="an answer of the first")
    with pytest.raises(UserError, match=r"first to become ready; last seen: 503.*first\.log"):
        stack.bring_up()
    assert set(pids(stack)) == {"first"}


def test_second_bring_up_changes_nothing(bench: Bench) -> None:
    stack = bench.stack(bench.component("one"))
    stack.bring_up()
    before = pids(stack)
    stack.bring_up()
    assert pids(stack) == before


def test_changed_configuration_restarts_exactly_what_uses_it(bench: Bench, tmp_path: Path) -> None:
    native = tmp_path / "native.yaml"
    native.write_text("a: 1")
    stack = bench.stack(bench.component("one", files=(native,)), bench.component("two"))
    stack.bring_up()
    before = pids(stack)
    native.write_text("a: 2")
    stack.bring_up()
    after = pids(stack)
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]


def test_changed_written_configuration_restarts_its_program(bench: Bench, tmp_path: Path) -> None:
    made = tmp_path / "made.yaml"
    bench.stack(bench.component("one", written={made: "a: 1"})).bring_up()
    stack = bench.stack(bench.component("one", written={made: "a: 1"}))
    before = pids(stack)
    stack.bring_up()
    assert pids(stack) == before
    changed = bench.stack(bench.component("one", written={made: "a: 2"}))
    changed.bring_up()
    assert pids(changed) != before


def test_program_works_in_its_directory_or_in_the_stacks(bench: Bench, tmp_path: Path) -> None:
    stack = bench.stack(bench.component("inside", directory=tmp_path), bench.component("plain"))
    stack.bring_up()
    working = {name: Path(psutil.Process(pid).cwd()) for name, pid in pids(stack).items()}
    assert working == {"inside": tmp_path, "plain": bench.settings.state_dir}


def test_early_death_ends_the_wait_at_once_with_the_log(bench: Bench) -> None:
    stack = bench.stack(bench.component("doomed", "--die"), bench.component("fine"))
    with pytest.raises(UserError, match=r"(?s)doomed ended while starting.*cannot go on"):
        stack.bring_up()


def test_killed_program_is_started_again(bench: Bench) -> None:
    stack = bench.stack(bench.component("one"))
    stack.bring_up()
    killed = pids(stack)["one"]
    os.kill(killed, signal.SIGKILL)

    def again() -> None:
        (status,) = stack.status()
        if not status.ready or status.pid == killed:
            raise NotYet(str(status))

    polling.until(again, timeout=15, what="the killed program to come back")


def test_program_that_dies_again_and_again_is_held_back(bench: Bench) -> None:
    stack = bench.stack(bench.component("doomed", "--die"))
    with pytest.raises(UserError):
        stack.bring_up()

    def backing_off() -> None:
        state = stack.supervisor.states()["doomed"]
        if state.state != "BACKOFF":
            raise NotYet(str(state))

    polling.until(backing_off, timeout=10, what="a pause between two starts")
    starts = bench.component("doomed").log.read_text().count("cannot go on")
    assert starts < 6


def test_stubborn_program_is_killed_after_its_grace(bench: Bench) -> None:
    stack = bench.stack(bench.component("stubborn", "--stubborn"))
    stack.bring_up()
    process = psutil.Process(pids(stack)["stubborn"])
    process.terminate()
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(0.5)
    stack.tear_down()
    assert bench.members() == []


def test_no_orphans_when_the_runner_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = bench.stack(bench.component("parent", "--child"), bench.component("plain"))
    stack.bring_up()
    runner = stack.supervisor.pid()
    assert runner
    names = {" ".join(process.cmdline()) for process in bench.members()}
    assert any("time.sleep(600)" in name for name in names), names
    os.kill(runner, signal.SIGKILL)

    def gone() -> None:
        if left := bench.members():
            raise NotYet(str(left))

    polling.until(gone, timeout=20, what="every process of the stack to end")


def test_without_the_guardian_orphans_stay_until_the_next_start(bench: Bench) -> None:
    stack = bench.stack(bench.component("plain"))
    stack.bring_up()
    runner = psutil.Process(stack.supervisor.pid())
    orphan = pids(stack)["plain"]
    runner.suspend()  # so that it does not start the guardian again
    for process in bench.members():
        if "sightglass.local.guardian" in process.cmdline():
            process.kill()
    runner.kill()
    runner.wait(5)
    assert psutil.pid_exists(orphan)
    stack.bring_up()
    assert not psutil.pid_exists(orphan)


def test_taken_port_is_named_with_the_setting_that_moves_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("SIGHTGLASS_LOKI_HTTP_PORT", str(port))
        monkeypatch.setenv("SIGHTGLASS_PORT_OFFSET", "30000")
        bench.settings = Settings(state_dir=bench.settings.state_dir)
        stack = bench.stack(bench.component("loki"))
        with pytest.raises(
            UserError, match=rf"Port {port} \(loki: .*taken by .*pid {os.getpid()}.*SIGHTGLASS_LOKI_HTTP_PORT"
        ):
            stack.bring_up()
    stack.bring_up()


def test_secrets_reach_only_their_program(bench: Bench) -> None:
    stack = bench.stack(bench.component("one", environment={"ONE_SECRET": "50% a,b=c;#"}), bench.component("two"))
    stack.bring_up()
    environment = psutil.Process(pids(stack)["one"]).environ()
    assert environment["ONE_SECRET"] == "50% a,b=c;#"
    assert "ONE_SECRET" not in psutil.Process(pids(stack)["two"]).environ()
    configuration = bench.settings.run_dir / "supervisord.conf"
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    assert all("50% a" not in " ".join(process.cmdline()) for process in bench.members())
    with pytest.raises(UserError, match="quote"):
        stack.supervisor.update([bench.component("one", environment={"ONE_SECRET": 'a"b'})])


def test_log_is_rotated_and_nothing_of_it_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightglass.local.supervise.LOG_BYTES", "60KB")
    stack = bench.stack(bench.component("talker", "--chatter", "1500"))
    stack.bring_up()

    def all_lines() -> None:
        files = sorted(bench.settings.logs_dir.glob("talker.log*"))
        numbers = {int(line) for file in files for line in file.read_text().splitlines() if line.isdecimal()}
        if numbers != set(range(1500)) or len(files) < 2:
            raise NotYet(f"{len(numbers)} lines in {[file.name for file in files]}")

    polling.until(all_lines, timeout=10, what="all lines in rotated files")


def test_output_that_is_tailed_goes_to_files_whose_names_stay(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightglass.local.logfiles.FILE_BYTES", 60_000)
    talker = bench.component("talker", "--chatter", "1500", tailed=True)
    stack = bench.stack(talker)
    stack.bring_up()
    folder = bench.settings.service_logs_dir

    def all_lines() -> list[Path]:
        files = logfiles.kept(folder, "talker")
        numbers = [int(line) for file in files for line in file.read_text().splitlines() if line.isdecimal()]
        if numbers != list(range(1500)):
            raise NotYet(f"{len(numbers)} lines in {[file.name for file in files]}")
        return files

    files = polling.until(all_lines, timeout=10, what="all lines in order of the files' names")
    assert len(files) == 3
    assert set(files) == set(folder.iterdir())
    assert talker.log.resolve() == files[-1]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_gate_holds_back_its_component_only(bench: Bench) -> None:
    opened = threading.Event()
    order: list[str] = []

    def report(name: str, _: float) -> None:
        order.append(name)
        if name == "free":
            opened.set()

    stack = bench.stack(bench.component("gated"), bench.component("free"))
    stack.bring_up(gates={"gated": lambda: assert_opens(opened)}, report=report)
    assert order == ["free", "gated"]


def test_what_a_gate_makes_restarts_its_component_when_it_is_another(bench: Bench, tmp_path: Path) -> None:
    made, opened = tmp_path / "model", []
    stack = bench.stack(bench.component("gated", files=(made,)), bench.component("other"))

    def bring_up(text: str) -> dict[str, int]:
        def gate() -> None:
            opened.append(text)
            made.write_text(text)

        stack.bring_up(gates={"gated": gate})
        return pids(stack)

    first = bring_up("one")
    assert bring_up("one") == first
    changed = bring_up("two")
    assert opened == ["one", "one", "two"]
    assert changed["gated"] != first["gated"]
    assert changed["other"] == first["other"]


def test_a_gate_that_fails_leaves_what_runs(bench: Bench) -> None:
    def fail() -> None:
        raise UserError("no model")

    stack = bench.stack(bench.component("gated"))
    stack.bring_up()
    before = pids(stack)
    with pytest.raises(UserError, match="no model"):
        stack.bring_up(gates={"gated": fail})
    assert pids(stack) == before


def assert_opens(event: threading.Event) -> None:
    assert event.wait(10), "the gate was never opened"


def test_every_port_has_a_name_of_its_own() -> None:
    assert len({port.variable for port in PORTS}) == len(PORTS)
    assert len({port.default for port in PORTS}) == len(PORTS)


def test_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    assert last_lines(file, 2) == ""
    file.write_text("1\n2\n3\n")
    assert last_lines(file, 2) == "2\n3"


def test_a_model_that_is_trained_anew_restarts_its_service(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "flowers"
    component = Component("flowers", [], "", "", tmp_path / "log", files=(folder,))
    before = component.digest()
    folder.mkdir(parents=True)
    (folder / "model.joblib").write_bytes(b"first")
    first = component.digest()
    assert len({before, first, Component("flowers", [], "", "", tmp_path / "log", files=(folder,)).digest()}) == 2
    (folder / "model.joblib").write_bytes(b"second")
    assert component.digest() != first
