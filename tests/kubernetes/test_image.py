"""The service's image, built and run by the engine of this machine as Kubernetes runs it: read-only and with no rights.

Needs a container engine; BASE_IMAGE names the base where the pinned one cannot be pulled.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from rich.console import Console

from sightglass.clients import kubectl, polling
from sightglass.clients.polling import NotYet
from sightglass.facts.errors import UserError
from sightglass.facts.settings import SERVICES
from sightglass.kubernetes import image
from sightglass.kubernetes.options import load as load_options
from text_classifier.settings import CLASSES, TRAIN_COMMAND

USER = 10001
STOP_SECONDS = 20.0
"""What a pod gets to end."""
READY_SECONDS = 60.0
RESTRICTED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
ZOMBIES = 'grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null | wc -l'
RECEIVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        print(self.path + "\\n", end="", flush=True)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 4318), Handler).serve_forever()
"""
"""A Collector that prints the path of each export that it takes."""


def why_not() -> str:
    """What this machine lacks."""
    try:
        image.exists("none")
    except UserError as error:
        return f"needs a container engine: {error}"
    return ""


MISSING = why_not()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def engine(*arguments: str, timeout: float = 120) -> str:
    """Run the engine; returns what it prints."""
    return kubectl.run([image.engine(), *arguments], timeout=timeout).strip()


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    name: str

    def run(self, *command: str) -> str:
        """Run a command in it."""
        return engine("exec", self.name, *command)

    def logs(self) -> list[str]:
        """Lines of its standard output and error so far."""
        command = [image.engine(), "logs", self.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        return done.stdout.splitlines()

    def running(self) -> bool:
        """Whether its first process runs."""
        return engine("inspect", "--format={{.State.Running}}", self.name) == "true"

    def status(self) -> int:
        """Exit status, once it ended."""

        def ended() -> int:
            if self.running():
                raise NotYet("it runs")
            return int(engine("inspect", "--format={{.State.ExitCode}}", self.name))

        return polling.until(ended, timeout=READY_SECONDS, what=f"{self.name} to end")

    def url(self) -> str:
        """Where the service can be reached from outside."""
        return f"http://{engine('port', self.name, '8000/tcp').splitlines()[0]}"

    def wait(self) -> None:
        """Return when the service is ready."""

        def ready() -> None:
            if not self.running():
                raise polling.GiveUp("\n".join(self.logs()))
            try:
                status = requests.get(f"{self.url()}/readyz", timeout=5).status_code
            except requests.RequestException as error:
                raise NotYet(type(error).__name__) from None
            if status != 200:
                raise NotYet(str(status))

        polling.until(ready, timeout=READY_SECONDS, what="the service to be ready")

    def predict(self) -> dict[str, object]:
        """Answer to one post."""
        answer = requests.post(f"{self.url()}/predict", json={"text": "a puck in the net"}, timeout=10)
        answer.raise_for_status()
        content: dict[str, object] = answer.json()
        return content


@contextmanager
def started(*arguments: str) -> Iterator[Container]:
    """A container in the background, removed at the end."""
    container = Container(f"sightglass-test-{uuid.uuid4().hex[:12]}")
    engine("run", "--detach", f"--name={container.name}", *arguments)
    try:
        yield container
    finally:
        engine("rm", "--force", "--volumes", container.name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a trained model of each service."""
    home = tmp_path_factory.mktemp("models")
    # Nothing of others, and no network: the toy data are enough.
    away = {"https_proxy": "http://127.0.0.1:9", "SCIKIT_LEARN_DATA": str(home / "none")}
    variables = {**os.environ, **away, "SIGHTGLASS_MODELS_DIR": str(home)}
    for one in SERVICES:
        command = [sys.executable, "-m", str(one.training)]
        subprocess.run(command, env=variables, check=True, capture_output=True, timeout=300)
    return home


@pytest.fixture(scope="module")
def built(store: Path) -> Iterator[str]:
    """The image of this checkout and that model."""
    output = io.StringIO()
    name = image.ensure(store, load_options(), Console(file=output))
    assert f"building {name}: done after" in output.getvalue()
    yield name
    engine("image", "rm", "--force", name)


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    name = f"sightglass-test-{uuid.uuid4().hex[:12]}"
    engine("network", "create", name)
    yield name
    engine("network", "rm", name)


@pytest.fixture(scope="module")
def collector(built: str, network: str) -> Iterator[Container]:
    with started(f"--network={network}", "--network-alias=collector", built, "python", "-c", RECEIVER) as container:
        yield container


SERVE = ("python", *SERVICES[0].arguments("0.0.0.0", SERVICES[0].port))
Start = Callable[..., AbstractContextManager[Container]]


@pytest.fixture(scope="module")
def serve(built: str, network: str, collector: Container) -> Start:
    """Starts the service as a pod does; it exports when it ends, because the next periodic export is far."""
    exports = ("OTEL_BSP_SCHEDULE_DELAY=600000", "OTEL_METRIC_EXPORT_INTERVAL=600000")
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318", *exports)

    @contextmanager
    def start(*rights: str) -> Iterator[Container]:
        options = [f"--env={variable}" for variable in variables]
        with started(
            f"--network={network}", "--publish=127.0.0.1::8000", *options, *rights, built, *SERVE
        ) as container:
            container.wait()
            yield container

    return start


@pytest.fixture(scope="module")
def service(serve: Start) -> Iterator[Container]:
    with serve(*RESTRICTED) as container:
        yield container


def test_a_prediction_is_answered_and_logged_as_a_line_of_json(service: Container) -> None:
    answer = service.predict()
    assert answer["label"] in CLASSES

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in service.logs()]
        if not any(line["trace_id"] == answer["trace_id"] and line["event.name"] == "ml.prediction" for line in lines):
            raise NotYet(f"{len(lines)} lines, none of trace {answer['trace_id']}")
        return lines

    assert polling.until(logged, timeout=10, what="the prediction's line")[0]["logger"] == "bentoml.serve"


def rights(container: Container, process: str) -> dict[str, str]:
    """Of /proc/PID/status, what a process is and may."""
    lines = container.run("cat", f"/proc/{process}/status").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: fields[name] for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")}


def test_every_process_is_an_ordinary_user_without_rights(service: Container, built: str) -> None:
    processes = service.run("sh", "-c", "ls -d /proc/[0-9]*/task").split()
    # The first process and its worker, beside the shell that lists them.
    ids = [path.split("/")[2] for path in processes]
    served = [
        pid for pid in ids if "bentoml" in service.run("sh", "-c", f"cat /proc/{pid}/cmdline 2>/dev/null || true")
    ]
    assert served[0] == "1"
    assert len(served) == 2
    nothing = "0" * 16
    for pid in served:
        found = rights(service, pid)
        assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(USER)}
        assert (found["CapEff"], found["CapBnd"], found["NoNewPrivs"]) == (nothing, nothing, "1")
    with started("--user=0", built, "sleep", "60") as root:
        found = rights(root, "1")
        assert found["Uid"].split()[0] == "0"
        assert nothing not in (found["CapEff"], found["CapBnd"])


def test_it_writes_to_its_temporary_folder_only(service: Container, built: str) -> None:
    # What the engine mounts for every container, such as /dev/shm, is not of the image.
    search = "find / -type d -writable -not -path '/proc*' -not -path '/dev*' -not -path '/tmp/*' 2>/dev/null || true"
    assert service.run("sh", "-c", search).split() == ["/tmp"]
    # Nor could it change its own files where nobody made them read-only.
    own = ("find", "/opt", "-not", "-type", "l", "-writable")
    assert engine("run", "--rm", built, *own) == ""
    assert "/opt/bentoml" in engine("run", "--rm", "--user=0", built, *own).split()


def test_the_first_process_takes_care_of_orphans(service: Container, built: str) -> None:
    orphan = ("sh", "-c", "(sleep 0.2 & ) ; exit 0")
    with started(built, "sleep", "60") as careless:
        careless.run(*orphan)

        def left() -> None:
            if careless.run("sh", "-c", ZOMBIES) == "0":
                raise NotYet("no zombie")

        polling.until(left, timeout=10, what="a zombie where the first process takes care of none")
    service.run(*orphan)
    service.run("sleep", "0.5")

    def gone() -> None:
        if (count := service.run("sh", "-c", ZOMBIES)) != "0":
            raise NotYet(f"{count} zombies")

    polling.until(gone, timeout=30, what="no zombie")


@pytest.mark.parametrize(
    ("signal", "status", "sent"), [("TERM", 0, {"/v1/traces", "/v1/metrics"}), ("KILL", 137, set())]
)
def test_it_ends_in_time_and_sends_what_it_still_has(
    serve: Start, collector: Container, signal: str, status: int, sent: set[str]
) -> None:
    with serve(*RESTRICTED) as container:
        container.predict()
        before = len(collector.logs())
        begun = time.monotonic()
        engine("kill", f"--signal={signal}", container.name)
        assert container.status() == status
        assert time.monotonic() - begun < STOP_SECONDS
        assert set(collector.logs()[before:]) == sent


def test_without_a_model_it_ends_and_says_what_to_run(built: str) -> None:
    with started(*RESTRICTED, "--env=SIGHTGLASS_MODELS_DIR=/tmp/empty", built, *SERVE) as container:
        assert container.status() == 1
        (line,) = [json.loads(text) for text in container.logs()]
    assert line["severity"] == "FATAL"
    assert line["message"].endswith(f"run '{TRAIN_COMMAND}' first.")


@pytest.mark.parametrize(
    ("module", "missing"),
    [("sightglass.runtime.canary", "CANARY_INTERVAL_SECONDS"), ("sightglass.runtime.storage", "S3_ENDPOINT")],
)
def test_the_other_programs_run_from_the_same_image(built: str, module: str, missing: str) -> None:
    with started(*RESTRICTED, built, "python", "-m", module) as container:
        assert container.status() == 1
        assert container.logs()[-1].startswith(f"'{missing}' is not set: `make ")


def test_it_installs_nothing(built: str) -> None:
    with started(*RESTRICTED, built, "python", "-m", "pip", "--version") as container:
        assert container.status() == 1
        assert "No module named pip" in container.logs()[-1]


def test_it_is_not_built_twice_and_can_be_saved(built: str, store: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    assert image.ensure(store, load_options(), Console(file=output)) == built
    assert output.getvalue() == ""
    image.save(built, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        (entry,) = json.load(manifest)
    (name,) = entry["RepoTags"]
    # Docker leaves out what everybody means; podman must not say that it is of this machine.
    assert f"{image.HOST}{name.removeprefix(image.HOST)}" == built


@pytest.fixture
def folder(store: Path, tmp_path: Path) -> Path:
    """What is staged for a build."""
    image.context(store, tmp_path / "context")
    return tmp_path / "context"


def test_a_base_that_cannot_be_had_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"base image localhost:1/none:1 cannot be pulled: .* set BASE_IMAGE"):
        image.build(folder, f"{image.NAME}:test", "localhost:1/none:1", Console(file=io.StringIO()))


def test_an_index_that_cannot_be_had_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(UserError, match=r"packages cannot be fetched: .* set PIP_INDEX_URL to a mirror"):
        image.build(folder, f"{image.NAME}:test", image.base_image(load_options()), Console(file=io.StringIO()))
