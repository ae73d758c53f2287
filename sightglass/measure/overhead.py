"""What telemetry costs the model's users: ``make bench``.

Three services with the same model answer the same posts, one after the other and several times over: this one with all
its telemetry, itself without any, and a plain BentoML service. The service has one core for itself; the load generator,
the Collector and the reader of its standard output share another one.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import psutil
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ml_telemetry import hashing, signals
from ml_telemetry.contract import Contract
from sightglass.clients import http
from sightglass.facts import declarations, settings
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.local import build, components, requests, up
from sightglass.local.servers import LOAD_GENERATOR, SERVERS
from sightglass.verify.signal_checks import request_spans

BODY_BYTES: Final = 2_100
"""Longer requests are left out: a few of them would decide the tail."""
CONNECTIONS: Final = 8
WARM_UP_SECONDS: Final = 4
_START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to serve a model; ``payload`` makes its request's body of one that the service takes."""

    name: str
    service: Service
    target: str
    payload: Callable[[str], str]
    environment: Mapping[str, str]
    telemetry: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of medians and what it has to reach; ``at_most`` turns the comparison round."""

    name: str
    over: str
    under: str
    measure: str
    limit: float
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One variant in one round: requests per second, latencies in milliseconds, CPU time of the service's processes in
    microseconds per request, and answers that were not 200.
    """

    throughput: float
    p50: float
    p99: float
    cpu: float
    failures: int


FULL, SILENT, STOCK, FASTER_STOCK = "all telemetry", "no telemetry", "stock BentoML", "stock, uvloop"


def _whole(body: str) -> str:
    return body


def _batch(body: str) -> str:
    """The request as BentoML's batchable APIs take it: a list for each value."""
    return json.dumps({name: [value] for name, value in json.loads(body).items()})


def variants(service: Service) -> tuple[Variant, ...]:
    """What is measured of a service; ``stock`` of its entry serves the same model as BentoML's documentation does."""
    found = [
        # A hash of each text is a part of what telemetry costs in a stack.
        Variant(
            *(FULL, service, service.application, _whole),
            {hashing.KEY_VARIABLE: f"bench:{secrets.token_hex(32)}"},
            telemetry=True,
        ),
        Variant(SILENT, service, service.application, _whole, {"OTEL_SDK_DISABLED": "true"}),
    ]
    if service.stock is not None:
        found += [
            Variant(STOCK, service, service.stock, _batch, {}),
            # For information: what of the difference is only the event loop, which this project installs.
            Variant(FASTER_STOCK, service, service.stock, _batch, {"STOCK_SERVICE_FASTER_LOOP": "1"}),
        ]
    return tuple(found)


GOALS: Final = (
    Goal("throughput against stock BentoML", FULL, STOCK, "throughput", 2.0),
    Goal("throughput against itself without telemetry", FULL, SILENT, "throughput", 0.88),
    Goal("p99 against stock BentoML", FULL, STOCK, "p99", 0.2, at_most=True),
)


def _pinned(cores: set[int]) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, cores)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if http.session.get(url, timeout=2).status_code == 200:
                return
        except http.Error:
            pass
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise UserError(f"{process.args!r} is not ready at {url}; its last lines were:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Collector:
    """A real Collector that takes OTLP, counts it and writes it nowhere."""

    def __init__(self, program: Path, folder: Path, core: set[int]) -> None:
        self.endpoint = f"http://127.0.0.1:{_free_port()}"
        self._metrics = _free_port()
        self._log = folder / "collector.log"
        configuration = folder / "collector.yaml"
        reader = {"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": self._metrics}}}}
        # Nobody listens where it exports to, and nothing is tried again: what was received and counted ends there.
        nowhere = {
            "endpoint": f"http://127.0.0.1:{_free_port()}",
            "retry_on_failure": {"enabled": False},
            "sending_queue": {"enabled": True, "block_on_overflow": False},
        }
        pipeline = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
        configuration.write_text(
            yaml.safe_dump(
                {
                    "receivers": {"otlp": {"protocols": {"http": {"endpoint": self.endpoint.removeprefix("http://")}}}},
                    "exporters": {"otlp_http": nowhere},
                    "service": {
                        "pipelines": {"traces": pipeline, "metrics": pipeline},
                        "telemetry": {"metrics": {"readers": [reader]}, "logs": {"level": "fatal"}},
                    },
                }
            )
        )
        self._process = subprocess.Popen(
            [str(program), "--config", str(configuration)],
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
            preexec_fn=_pinned(core),
        )

    def __enter__(self) -> Collector:
        _wait_for(f"http://127.0.0.1:{self._metrics}/metrics", self._process, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._process)

    def accepted_spans(self) -> int:
        """Spans received since the start, from the Collector's own metrics."""
        text = http.session.get(f"http://127.0.0.1:{self._metrics}/metrics").text
        lines = (line.split() for line in text.splitlines())
        return int(sum(float(line[-1]) for line in lines if line[0].startswith("otelcol_receiver_accepted_spans")))


@contextmanager
def _service(
    variant: Variant, folder: Path, core: set[int], other: set[int], endpoint: str
) -> Iterator[tuple[str, Path, psutil.Process]]:
    """Run a service; its standard output goes through a pipe to a reader on the other core, as under supervisord."""
    port = _free_port()
    log = folder / "service.log"
    log.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "PYTHONPATH": str(variant.service.folder)}
    environment |= variant.environment
    served = variant.service.model_copy(update={"application": variant.target})
    command = [str(served.python), *served.arguments("127.0.0.1", port)]
    with log.open("wb") as file:
        reader = subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            stdout=file,
            preexec_fn=_pinned(other),
        )
        process = subprocess.Popen(
            command,
            stdout=reader.stdin,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=variant.service.folder,
            preexec_fn=_pinned(core),
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/readyz", process, log)
            yield url, log, psutil.Process(process.pid)
        finally:
            _stop(process)
            if reader.stdin:
                reader.stdin.close()
            reader.wait(30)


def _cpu_seconds(service: psutil.Process) -> float:
    processes = [service, *service.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _attack(program: Path, targets: Path, seconds: float, core: set[int], service: psutil.Process) -> Result:
    """Send requests as fast as they are answered over a fixed number of connections."""
    workers = [f"-workers={CONNECTIONS}", f"-max-workers={CONNECTIONS}", f"-connections={CONNECTIONS}"]
    cpu = _cpu_seconds(service)
    attack = subprocess.run(
        [str(program), "attack", "-format=json", f"-targets={targets}", "-rate=0", f"-duration={seconds}s", *workers],
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=_pinned(core),
    )
    cpu = _cpu_seconds(service) - cpu
    report = subprocess.run(
        [str(program), "report", "-type=json"], check=True, input=attack.stdout, stdout=subprocess.PIPE
    )
    found = json.loads(report.stdout)
    failures = sum(count for status, count in found["status_codes"].items() if status != "200")
    latencies = found["latencies"]
    return Result(
        found["throughput"], latencies["50th"] / 1e6, latencies["99th"] / 1e6, cpu * 1e6 / found["requests"], failures
    )


def _write_targets(path: Path, url: str, variant: Variant, bodies: Sequence[str]) -> None:
    with path.open("w") as file:
        for text in bodies:
            body = base64.b64encode(variant.payload(text).encode()).decode()
            header = {"Content-Type": ["application/json"]}
            file.write(json.dumps({"method": "POST", "url": url, "body": body, "header": header}) + "\n")


def expected_spans(log: Path, spans_per_request: int) -> int:
    """Return how many spans the predictions in a service's log must have made: the requests' own and one per batch."""
    requests = 0
    batches = 0.0
    with log.open() as lines:
        for line in lines:
            if f'"{signals.PREDICTION_EVENT.name}"' in line:
                requests += 1
                if size := json.loads(line).get(signals.BATCH_SIZE.name):
                    batches += 1 / size
    return requests * spans_per_request + round(batches)


def _table(service: str, results: Mapping[str, Sequence[Result]]) -> Table:
    title = f"{service}: {CONNECTIONS} connections, requests of up to {BODY_BYTES:,} bytes, service on one core"
    table = Table(title=title)
    for column in ("variant", "round", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "not 200"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, rounds in results.items():
        for number, result in enumerate(rounds, start=1):
            cells = (
                f"{result.throughput:,.0f}",
                f"{result.p50:.1f}",
                f"{result.p99:.1f}",
                f"{result.cpu:.0f}",
                str(result.failures),
            )
            table.add_row(name if number == 1 else "", str(number), *cells)
        medians = [
            statistics.median(getattr(result, key) for result in rounds) for key in ("throughput", "p50", "p99", "cpu")
        ]
        table.add_row(
            "",
            "median",
            f"{medians[0]:,.0f}",
            f"{medians[1]:.1f}",
            f"{medians[2]:.1f}",
            f"{medians[3]:.0f}",
            "",
            end_section=True,
        )
    return table


def judge(results: Mapping[str, Sequence[Result]], goal: Goal) -> tuple[float, bool]:
    """Return the ratio of medians a goal is about, and whether the goal is met."""

    def median(variant: str) -> float:
        return float(statistics.median(getattr(result, goal.measure) for result in results[variant]))

    ratio = median(goal.over) / median(goal.under)
    return ratio, ratio <= goal.limit if goal.at_most else ratio >= goal.limit


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="How often each is measured.")
@click.option(
    "--seconds", default=8.0, show_default=True, type=click.FloatRange(min=1), help="Length of a measurement."
)
@click.option("--service", "names", multiple=True, help="Measure only this service; without, all that are observed.")
@click.option("--only", multiple=True, help=f"Measure only this variant: {FULL}, {SILENT}, {STOCK} or {FASTER_STOCK}.")
def main(rounds: int, seconds: float, names: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Measure what telemetry costs, and fail if a goal is missed or a span was lost.

    Needs Linux with two cores, and the real data of each model.
    """
    console = Console()
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("The benchmark gives the service a core of its own, which works on Linux only.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UserError("The benchmark needs two cores: one for the service, one for everything else.")
    loaded = settings.load()
    services = [one for one in loaded.observed if not names or one.name in names]
    if unknown := sorted(set(names) - {one.name for one in services}):
        raise UserError(
            f"There is no service {unknown[0]!r}: take one of {', '.join(s.name for s in loaded.observed)}."
        )
    programs = _prepare(console)
    missed, goals = 0, 0
    for service in services:
        up.train(loaded, service)
        os.environ.update(components.service_environment(loaded))
        results = _measure(console, service, programs, (cores[0], cores[1]), rounds, seconds, only)
        console.print(_table(service.name, results))
        judged = [goal for goal in GOALS if {goal.over, goal.under} <= set(results)]
        goals += len(judged)
        missed += sum(not _show(console, results, goal) for goal in judged)
    if missed:
        raise UserError(f"{missed} of {goals} goals were missed.")


def _measure(
    console: Console,
    service: Service,
    programs: tuple[Path, Path],
    cores: tuple[int, int],
    rounds: int,
    seconds: float,
    only: Sequence[str],
) -> dict[str, list[Result]]:
    """Measure each variant of a service in rounds; :class:`UserError` when a span was lost."""
    bodies = [body for body in requests.of(service).valid if len(body.encode()) <= BODY_BYTES]
    declared = declarations.of(service)
    spans = len(request_spans(Contract(declared)))
    chosen = [variant for variant in variants(service) if not only or variant.name in only]
    results: dict[str, list[Result]] = {variant.name: [] for variant in chosen}
    lost = 0
    service_core, other_core = {cores[0]}, {cores[1]}
    with tempfile.TemporaryDirectory() as temporary, Progress(console=console) as progress, ExitStack() as stack:
        folder = Path(temporary)
        task = progress.add_task("measuring", total=rounds * len(chosen))
        collector = stack.enter_context(Collector(programs[0], folder, other_core))
        for number in range(rounds):
            # Each round begins with another variant, so that none always has the machine at its warmest.
            shift = number % len(chosen)
            for variant in chosen[shift:] + chosen[:shift]:
                progress.update(task, description=f"{service.name}, round {number + 1}: {variant.name}")
                before = collector.accepted_spans()
                with _service(variant, folder, service_core, other_core, collector.endpoint) as (url, log, process):
                    targets = folder / "targets.json"
                    _write_targets(targets, f"{url}{declared.route}", variant, bodies)
                    _attack(programs[1], targets, WARM_UP_SECONDS, other_core, process)
                    results[variant.name].append(_attack(programs[1], targets, seconds, other_core, process))
                if variant.telemetry:
                    expected = expected_spans(log, spans)
                    received = collector.accepted_spans() - before
                    lost += expected - received
                    console.print(f"round {number + 1}: {received:,} of {expected:,} spans received")
                progress.advance(task)
    if lost:
        raise UserError(f"{lost} spans of {service.name} were not received: the measurement does not count.")
    return results


def _prepare(console: Console) -> tuple[Path, Path]:
    """Build the Collector and the load generator; returns the two programs."""
    loaded = settings.load()
    programs = build.ensure_binaries(
        bin_dir=loaded.bin_dir,
        cache_dir=loaded.cache_dir,
        console=console,
        names=("otelcol", "vegeta"),
        servers=(*SERVERS, LOAD_GENERATOR),
    )
    return programs["otelcol"], programs["vegeta"]


def _show(console: Console, results: Mapping[str, Sequence[Result]], goal: Goal) -> bool:
    ratio, met = judge(results, goal)
    bound = f"{'at most' if goal.at_most else 'at least'} {goal.limit}"
    console.print(f"{goal.name}: {ratio:.2f} ({bound}) [{'green]met' if met else 'red]missed'}[/]")
    return met


if __name__ == "__main__":
    main()
