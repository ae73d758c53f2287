"""The real Promtail and the real Collector read a folder like a node's /var/log/pods: what becomes of each line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sightglass.clients import polling
from sightglass.facts import environments, settings
from sightglass.facts.settings import PORTS
from sightglass.local import logfiles
from sightglass.local.components import COLLECTOR_CONFIG, COLLECTOR_OPTIONS, HELM_CONFIG, LocalTopology
from tests.unit import collecting
from tests.unit.otlp import Logged, Receiver, until
from tests.unit.ports import free_offset

PROMTAIL_CONFIG = HELM_CONFIG / "promtail" / "promtail.yaml"
CLASSIFIER, CANARY = "3f8d2c1a-6b7e-4f50-9a1b-2c3d4e5f6071", "9a0b1c2d-3e4f-4051-8263-748596a7b8c9"
PART = 16 * 1024
"""Bytes after which a container runtime breaks a line."""
LONG = "€" * 15_000
ANNOUNCED = "ERROR:    Exception in ASGI application"
END = "the end of this stream"

# What Python itself prints: an error while another is handled, one without a line before it, and a group of errors.
CHAINED = """
def parse(text):
    raise ValueError("no number:\\t" + text)

try:
    parse("seven")
except ValueError as error:
    raise KeyError("seven") from error
"""
LONE = "import no_such_module"
GROUPED = """
raise ExceptionGroup("two of them", [ValueError("one"), TypeError("two")])
"""


def crash(code: str) -> str:
    """Standard error of a Python program that ends with an error, without the last line break."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.rstrip("\n")


@dataclass
class Container:
    """The log files of a container, as a kubelet names and a container runtime writes them."""

    folder: Path
    file: str = "0.log"
    clock: float = field(default_factory=time.time)
    """Unix time of the next line; each takes a millisecond."""

    @property
    def path(self) -> Path:
        return self.folder / self.file

    def write(self, text: str, stream: str = "stdout") -> None:
        """Print a text, each line of it in parts of at most 16 KiB."""
        for line in text.split("\n"):
            *first, last = parts(line)
            for part in first:
                self.part(part, stream, "P")
            self.part(last, stream, "F")

    def part(self, part: bytes, stream: str, flag: str) -> None:
        self.clock += 0.001
        seconds, rest = divmod(nanoseconds(self.clock), 10**9)
        stamp = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(f"{stamp}000Z {stream} {flag} ".encode() + part + b"\n")

    def rotate(self) -> None:
        """As a kubelet does at 10 MiB: rename, and let the runtime open the file anew."""
        self.path.rename(self.folder / f"{self.file}.{datetime.now(UTC):%Y%m%d-%H%M%S.%f}")
        self.path.touch()


def parts(line: str) -> list[bytes]:
    """A line as a container runtime breaks it: by bytes, also in the middle of a character."""
    data = line.encode()
    return [data[start : start + PART] for start in range(0, len(data), PART)] or [b""]


def container(pods: Path, pod: str, uid: str, name: str, file: str = "0.log") -> Container:
    return Container(pods / f"sightglass_{pod}_{uid}" / name, file)


def event(message: str, **more: object) -> str:
    """One line as the service prints it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line = {"timestamp": now, "severity": "INFO", "event.name": "log", "message": message, **more}
    return json.dumps(line, ensure_ascii=False)


@dataclass
class Road:
    """Promtail and the Collector as processes, and what comes out at their end."""

    folder: Path
    programs: Mapping[str, Path]
    receiver: Receiver
    promtail_text: str
    collector_text: str
    glob: str
    config: settings.Settings = field(default_factory=settings.load)

    @contextmanager
    def collector(self) -> Iterator[None]:
        file = self.folder / "collector.yaml"
        file.write_text(self.collector_text)
        command = [str(self.programs["otelcol"]), *COLLECTOR_OPTIONS, f"--config={file}"]
        own = collecting.environment(self.config, self.receiver)
        with collecting.running(command, own, self.config.url("collector_health"), self.folder / "collector.out"):
            yield

    @contextmanager
    def promtail(self) -> Iterator[None]:
        file = self.folder / "promtail.yaml"
        file.write_text(self.promtail_text)
        own = environments.promtail(LocalTopology(self.config)) | {
            "PROMTAIL_LOG_GLOB": self.glob,
            "PROMTAIL_POSITIONS_FILE": str(self.folder / "positions.yaml"),
        }
        command = [str(self.programs["promtail"]), f"-config.file={file}", "-config.expand-env=true"]
        ready_url = f"{self.config.url('promtail_http')}/ready"
        with collecting.running(command, own, ready_url, self.folder / "promtail.out"):
            yield

    def came(self, *texts: str) -> None:
        """Wait until a record with each of these texts has come."""

        def all_came() -> bool:
            return all(any(text in logged.body for logged in list(self.receiver.logs)) for text in texts)

        until(all_came, f"records with {texts}", 30)

    def of(self, uid: str, stream: str | None = None) -> list[Logged]:
        """Records of a pod, as they came; of one of its streams."""
        return [
            logged
            for logged in self.receiver.logs
            if logged.resource.get("k8s.pod.uid") == uid and stream in (None, logged.attributes.get("log.iostream"))
        ]


def without(part: str, file: Path = PROMTAIL_CONFIG) -> str:
    """A configuration without one part, which must stand in it once."""
    text = file.read_text()
    assert text.count(part) == 1, part
    return text.replace(part, "")


Roads = Callable[..., Road]


@pytest.fixture
def roads(programs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Roads]:
    """Makes a road with a running Collector; Promtail is the test's to start."""
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path / "state"))
    with ExitStack() as stack:

        def make(
            promtail_text: str | None = None, collector_text: str | None = None, glob: str = "pods/*/*/*.log"
        ) -> Road:
            for port in PORTS:
                monkeypatch.delenv(port.variable, raising=False)
            monkeypatch.setenv("SIGHTGLASS_PORT_OFFSET", str(free_offset()))
            receiver = stack.enter_context(Receiver().serving())
            road = Road(
                tmp_path,
                programs,
                receiver,
                promtail_text or PROMTAIL_CONFIG.read_text(),
                collector_text or COLLECTOR_CONFIG.read_text(),
                str(tmp_path / glob),
            )
            stack.enter_context(road.collector())
            return road

        yield make


def written(pods: Path) -> tuple[Container, Container]:
    """Two pods: one that serves and fails now and then, and one that starts again after a crash."""
    classifier = container(pods, "text-classifier-7c9f8d6b5-x2x4q", CLASSIFIER, "text-classifier")
    canary = container(pods, "canary-5d4c8b7f9-k8s7w", CANARY, "canary", "1.log")

    canary.write(crash(LONE), "stderr")
    canary.write(event("again", service_name="someone-else", k8s_pod_uid="another"))
    canary.write(END, "stderr")

    first, second, third = parts(event("long", text=LONG))
    classifier.part(first, "stdout", "P")
    classifier.write(f"{ANNOUNCED}\n{crash(CHAINED)}", "stderr")
    classifier.part(second, "stdout", "P")
    classifier.write(f"{ANNOUNCED}\n{crash(GROUPED)}", "stderr")
    classifier.part(third, "stdout", "F")
    classifier.write(event("short"))
    classifier.write("INFO:     Application startup complete.\nINFO:     Uvicorn running")
    classifier.write(END, "stdout")
    classifier.write(END, "stderr")

    # What a kubelet has put away.
    (classifier.folder / "0.log.20260101-000000").write_text("2026-01-01T00:00:00.0Z stdout F put away\n")
    with gzip.open(classifier.folder / "0.log.20251231-000000.gz", "wt") as file:
        file.write("2025-12-31T00:00:00.0Z stdout F put away\n")
    return classifier, canary


def read(road: Road) -> None:
    """Let Promtail read what is written, to the end of each stream."""
    written(road.folder / "pods")

    def ended() -> bool:
        return sum(END in logged.body for logged in list(road.receiver.logs)) == 3

    with road.promtail():
        until(ended, "the end of three streams", 30)


def check_lines(road: Road) -> None:
    bodies = [logged.body for logged in road.of(CLASSIFIER, "stdout")]
    messages = [json.loads(body)["message"] for body in bodies if body.startswith("{")]
    assert sorted(messages) == ["long", "short"]
    assert [body for body in bodies if not body.startswith("{")] == [
        "INFO:     Application startup complete.",
        "INFO:     Uvicorn running",
        END,
    ]


def check_parts(road: Road) -> None:
    (line,) = [body for body in (x.body for x in road.of(CLASSIFIER)) if "€€€" in body]
    assert json.loads(line)["text"] == LONG


def check_traceback(road: Road) -> None:
    bodies = [logged.body for logged in road.of(CLASSIFIER, "stderr")]
    assert bodies[0] == f"{ANNOUNCED}\n{crash(CHAINED)}"
    assert bodies[-1] == END


def check_group(road: Road) -> None:
    bodies = [logged.body for logged in road.of(CLASSIFIER, "stderr")]
    assert bodies[1] == f"{ANNOUNCED}\n{crash(GROUPED)}"


def check_first_traceback(road: Road) -> None:
    (record,) = [logged for logged in road.of(CANARY, "stderr") if END not in logged.body]
    assert record.body == crash(LONE)


def check_severity(road: Road) -> None:
    assert {logged.body: logged.attributes["level"] for logged in road.of(CANARY, "stderr")} == {
        crash(LONE): "error",
        END: "unknown",
    }
    levels = {logged.body[:12]: logged.attributes["level"] for logged in road.of(CLASSIFIER)}
    assert levels == {
        '{"timestamp"': "info",
        ANNOUNCED[:12]: "error",
        "INFO:     Ap": "unknown",
        "INFO:     Uv": "unknown",
        END[:12]: "unknown",
    }
    numbers = {logged.record.severity_number for logged in road.of(CANARY, "stderr")}
    assert numbers == {0, 17}


def check_origin(road: Road) -> None:
    common = {"service.namespace": "sightglass", "deployment.environment.name": "local"}
    classifier = {
        "service.name": "text-classifier",
        "k8s.namespace.name": "sightglass",
        "k8s.pod.name": "text-classifier-7c9f8d6b5-x2x4q",
        "k8s.pod.uid": CLASSIFIER,
        "k8s.container.name": "text-classifier",
    }
    canary = {
        "service.name": "canary",
        "k8s.namespace.name": "sightglass",
        "k8s.pod.name": "canary-5d4c8b7f9-k8s7w",
        "k8s.pod.uid": CANARY,
        "k8s.container.name": "canary",
    }
    assert road.receiver.logs
    for logged in road.receiver.logs:
        assert logged.resource in ({**common, **classifier}, {**common, **canary})
        assert set(logged.attributes) - {"event.name"} == {"level", "log.iostream"}


def check_put_away(road: Road) -> None:
    assert not [logged for logged in road.receiver.logs if "put away" in logged.body]


CHECKS = (
    check_lines,
    check_parts,
    check_traceback,
    check_group,
    check_first_traceback,
    check_severity,
    check_origin,
    check_put_away,
)


def test_each_line_is_one_record_with_its_origin(roads: Roads) -> None:
    road = roads()
    read(road)
    for check in CHECKS:
        check(road)


def _line(beginning: str) -> str:
    """The Collector's one line of configuration that begins so."""
    (line,) = [line for line in COLLECTOR_CONFIG.read_text().splitlines(True) if line.startswith(beginning)]
    return line


_BEFORE = """            - multiline:
                firstline: '^\\S+ [CF] '
                max_wait_time: 300ms
"""
_WHOLE = """            - multiline:
                firstline: '^\\S+ [HF] '
                max_lines: 1000
                max_wait_time: 600ms
"""
_MARKS = """            - replace:
                expression: '(?m)^(\\S+ [HBCF] )'
                replace: ''
"""
STAGES = {
    "the parts of a line": ("            - cri: {}\n", {check_lines, check_parts, check_traceback, check_origin}),
    "what stands before a traceback": (_BEFORE, {check_traceback}),
    "a traceback's lines": (_WHOLE, {check_traceback, check_group, check_first_traceback}),
    "the marks": (_MARKS, {check_lines, check_traceback, check_group, check_first_traceback}),
    "whose file it is": ("                k8s_pod_uid:\n", {check_lines, check_origin}),
}
_TRACEBACK = """          - set(log.severity_text, "ERROR") where IsMatch(log.body, """
_KEPT = """          - keep_matching_keys(log.cache, """
PROCESSORS = {
    "one resource for each pod": (", k8s.pod.name, k8s.pod.uid, k8s.container.name", {check_origin}),
    "the severity of a traceback": (_line(_TRACEBACK), {check_severity}),
    "what a line may say of itself": (_line(_KEPT), {check_origin}),
}


def noticed_by(road: Road) -> set[Callable[[Road], None]]:
    """The checks that fail."""
    read(road)
    failed: set[Callable[[Road], None]] = set()
    for check in CHECKS:
        try:
            check(road)
        except (AssertionError, IndexError, KeyError, ValueError):
            failed.add(check)
    return failed


@pytest.mark.parametrize("what", STAGES)
def test_a_missing_stage_of_promtail_is_noticed(roads: Roads, what: str) -> None:
    part, red = STAGES[what]
    assert red <= noticed_by(roads(without(part)))


@pytest.mark.parametrize("what", PROCESSORS)
def test_a_missing_step_of_the_collector_is_noticed(roads: Roads, what: str) -> None:
    part, red = PROCESSORS[what]
    assert red <= noticed_by(roads(collector_text=without(part, COLLECTOR_CONFIG)))


def nanoseconds(unix: float) -> int:
    """As a record has it, in whole microseconds, which is what a container runtime wrote here."""
    return round(unix * 1e6) * 1000


_OWN_TIME = """            - timestamp:
                source: began
                format: RFC3339Nano
"""


@pytest.mark.parametrize("text", [None, without(_OWN_TIME)], ids=["as it is", "without its own time"])
def test_a_line_that_goes_on_after_a_pause_has_its_own_time(roads: Roads, text: str | None) -> None:
    road = roads(text)
    pod = container(road.folder / "pods", "slow", CLASSIFIER, "text-classifier")
    pod.clock -= 60
    pod.write("loading")
    with road.promtail():
        road.came("loading")
        pod.clock += 60
        pod.write("    half of it")
        road.came("half of it")
    (record,) = [logged.record for logged in road.of(CLASSIFIER) if "half" in logged.body]
    assert (record.time_unix_nano == nanoseconds(pod.clock)) == (text is None)


_ALL_WAIT = PROMTAIL_CONFIG.read_text().replace(' !~ "^[{]"', "")


@pytest.mark.parametrize("text", [None, _ALL_WAIT], ids=["as it is", "all lines wait"])
def test_a_json_line_waits_for_nothing(roads: Roads, text: str | None) -> None:
    road = roads(text)
    pod = container(road.folder / "pods", "quick", CLASSIFIER, "text-classifier")
    pod.write(event("first"))
    with road.promtail():
        road.came("first")
        pod.write("a plain line")
        pod.write(event("behind it"))
        road.came("a plain line", "behind it")
    order = ["behind it" in logged.body for logged in road.of(CLASSIFIER)[1:]]
    assert order == ([True, False] if text is None else [False, True])


def test_rotation_and_restart_lose_and_repeat_nothing(roads: Roads) -> None:
    road = roads()
    pod = container(road.folder / "pods", "rotating", CLASSIFIER, "text-classifier")
    pod.write(event("first"))
    with road.promtail():
        road.came("first")
        pod.write(event("before the rotation"))
        pod.rotate()
        pod.write(event("after the rotation"))
        road.came("before the rotation", "after the rotation")
        pod.write(event("before the restart"))
        road.came("before the restart")
    pod.write(event("while it is stopped"))
    with road.promtail():
        road.came("while it is stopped")
        pod.write(event("last"))
        road.came("last")
    messages = [json.loads(logged.body)["message"] for logged in road.of(CLASSIFIER)]
    assert messages == [
        "first",
        "before the rotation",
        "after the rotation",
        "before the restart",
        "while it is stopped",
        "last",
    ]


def lines(count: int, start: int = 0) -> list[str]:
    return [event(f"line {number}", filler="x" * 100) for number in range(start, start + count)]


def renamed(folder: Path, service: str) -> Path:
    """The newest file after a rotation that gives its name to the next, as supervisord's own does."""
    file = folder / f"{service}.log"
    for number in (2, 1):
        older = folder / f"{service}.log.{number}"
        if older.exists():
            older.rename(folder / f"{service}.log.{number + 1}")
    if file.exists():
        file.rename(folder / f"{service}.log.1")
    file.touch()
    return file


@pytest.mark.parametrize("rotate", [logfiles.begin, renamed], ids=["own names", "renamed"])
def test_promtail_stopped_across_two_rotations(roads: Roads, rotate: Callable[[Path, str], Path]) -> None:
    """Nothing is lost and nothing comes twice; with files that are renamed most is lost."""
    road = roads(glob="logs/services/*.log")
    folder = road.folder / "logs" / "services"
    folder.mkdir(parents=True)

    def write(file: Path, printed: list[str]) -> None:
        with file.open("a") as opened:
            opened.writelines(f"{text}\n" for text in printed)

    file = rotate(folder, "text-classifier")
    write(file, lines(900))
    with road.promtail():
        road.came('"line 899"')
        write(file, lines(100, 900))
        road.came('"line 999"')
    for rotation in range(2):
        write(file, lines(300, 1000 + 300 * rotation))
        file = rotate(folder, "text-classifier")
    write(file, lines(300, 1600))
    with road.promtail():
        write(file, lines(1, 1900))
        if rotate is renamed:
            polling.stays(lambda: None, duration=3, what="time in which lines would come")
        else:
            road.came('"line 1900"', '"line 1000"')
    numbers = [int(json.loads(logged.body)["message"].split()[1]) for logged in list(road.receiver.logs)]
    assert all(logged.resource["service.name"] == "text-classifier" for logged in road.receiver.logs)
    assert numbers.count(0) == 1
    lost = set(range(1000, 1900)) - set(numbers)
    if rotate is renamed:
        assert len(lost) >= 600
    else:
        assert sorted(numbers) == list(range(1901))


@pytest.mark.long
@pytest.mark.parametrize(("read", "missed", "lost"), [(1000, 0, 0), (1000, 1, 300), (1000, 2, 600), (100, 1, 400)])
def test_what_promtail_loses_of_a_pod_while_it_is_stopped(roads: Roads, read: int, missed: int, lost: int) -> None:
    """A kubelet renames, and Promtail knows paths only: what a missed rotation put away unread is lost.

    Where the newest file is longer than what was read of the first, as much of its beginning is lost as well.
    """
    road = roads()
    pod = container(road.folder / "pods", "bounded", CLASSIFIER, "text-classifier")
    for text in lines(read):
        pod.write(text)
    with road.promtail():
        road.came(f'"line {read - 1}"')
    number = read
    for _ in range(missed):
        for text in lines(300, number):
            pod.write(text)
        number += 300
        pod.rotate()
    for text in lines(300, number):
        pod.write(text)
    with road.promtail():
        pod.write(event("line 5000"))
        road.came('"line 5000"')
    came = {int(json.loads(logged.body)["message"].split()[1]) for logged in road.of(CLASSIFIER)}
    assert len(set(range(number + 300)) - came) == lost


def test_services_on_one_machine_take_the_same_road(roads: Roads) -> None:
    road = roads(glob="logs/services/*.log")
    file = road.folder / "logs" / "services" / "text-classifier.log"
    file.parent.mkdir(parents=True)
    began = time.time()
    file.write_text(f"{crash(LONE)}\n{event('short')}\n{ANNOUNCED}\n{crash(CHAINED)}\n{END}\n")
    with road.promtail():
        road.came(END)
    bodies = {logged.body: logged for logged in road.receiver.logs}
    plain = [body for body in bodies if not body.startswith("{")]
    assert plain == [crash(LONE), f"{ANNOUNCED}\n{crash(CHAINED)}", END]
    assert len(bodies) == len(road.receiver.logs) == 4
    for logged in road.receiver.logs:
        assert logged.resource == {
            "service.name": "text-classifier",
            "service.namespace": "sightglass",
            "deployment.environment.name": "local",
        }
        assert nanoseconds(began) <= logged.record.time_unix_nano <= nanoseconds(time.time())
        assert set(logged.attributes) - {"event.name"} == {"level"}
