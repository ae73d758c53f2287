"""What a thousand predictions cost each server, measured on the running stack: ``make cost``.

One run: everything is flushed, an idle time shows what the stack does by itself, then there is load, and everything is
flushed again. Each figure is the growth of a counter of the server that did the work, less what it would have grown in
an idle time of that length, divided by the predictions that were counted meanwhile; only processor time is given whole.
With ``--outage`` the servers are stopped afterwards, and what the Collector's queues then grow by is measured as well.
`docs/scaling.md` calculates with these figures.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from ml_telemetry import signals
from sightglass.clients import backends, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY, SERVICE, Settings
from sightglass.facts.target import Target
from sightglass.local import supervise
from sightglass.measure import background
from sightglass.terminal import screen
from sightglass.verify.signal_checks import PREDICTIONS

THOUSAND: Final = 1_000
LOOK: Final = 1.0
"""Seconds between two looks at what is only there for a moment."""
ARRIVAL: Final = 6.0
"""Seconds without a newly counted prediction after which all are counted: no telemetry waits longer on its way."""
COMPLETION: Final = 15.0
"""Seconds that nothing must be written for the last block to have been: longer than Tempo takes to complete one."""
TIMEOUT: Final = 120.0
QUEUE: Final = "otelcol_exporter_queue_size"
KEEPERS: Final = ("prometheus", "loki", "tempo")
"""Servers that the Collector keeps signals for while they are down, in the order in which they are started again."""
HEAD: Final = "prometheus_tsdb_head_series"


@dataclass(frozen=True)
class Counter:
    """A number that grows, in the metrics of a server; one that falls ends the measurement."""

    name: str
    server: str
    metric: str


CHUNKS: Final = "bytes of chunks, written to the bucket loki"
BLOCKS: Final = "bytes of blocks, written to the bucket tempo"
COUNTERS: Final = (
    Counter("log lines, read by Promtail", "promtail", "promtail_read_lines_total"),
    Counter("log lines, taken by Loki", "loki", "loki_distributor_lines_received_total"),
    Counter("bytes of log lines, taken by Loki", "loki", "loki_distributor_bytes_received_total"),
    Counter("spans, taken by Tempo", "tempo", "tempo_distributor_spans_received_total"),
    Counter("bytes of spans, taken by Tempo", "tempo", "tempo_distributor_bytes_received_total"),
    Counter("samples, stored by Prometheus", "prometheus", "prometheus_tsdb_head_samples_appended_total"),
    Counter("exemplars, stored by Prometheus", "prometheus", "prometheus_tsdb_exemplar_exemplars_appended_total"),
    Counter("bytes of Prometheus' write-ahead log", "prometheus", "prometheus_tsdb_wal_storage_size_bytes"),
    Counter(CHUNKS, "loki", "loki_ingester_chunk_size_bytes_sum"),
    Counter(BLOCKS, "tempo", "tempo_ingester_flush_size_bytes_sum"),
)
PORTS: Final = {
    "promtail": "promtail_http",
    "loki": "loki_http",
    "tempo": "tempo_http",
    "prometheus": "prometheus",
    "collector": "collector_metrics",
}


@dataclass(frozen=True)
class Reading:
    """Everything that is measured at one moment: seconds of a steady clock, and numbers by name."""

    second: float
    predictions: Mapping[str, float]
    """How many were counted by instance: a sum would fall when Prometheus forgets an instance that has ended."""
    counters: Mapping[str, float]
    cpu: Mapping[str, float]
    """Seconds of processor time by component."""


@dataclass(frozen=True)
class Cost:
    """What grows by itself each second, and what a thousand predictions add."""

    name: str
    idle: float
    per_thousand: float


@dataclass
class Peaks:
    """The most that was seen under load: resident bytes by component, bytes in each of the Collector's queues."""

    resident: dict[str, float] = field(default_factory=dict)
    queues: dict[str, float] = field(default_factory=dict)

    def see(self, resident: Mapping[str, float], queues: Mapping[str, float]) -> None:
        """Keep what is more than before."""
        for most, now in ((self.resident, resident), (self.queues, queues)):
            for name, value in now.items():
                most[name] = max(value, most.get(name, 0))


@dataclass(frozen=True)
class Waiting:
    """Log lines that were read so far, one a prediction, and bytes in the Collector's queues by exporter."""

    lines: float
    queues: Mapping[str, float]


def queued(looks: Sequence[Waiting]) -> dict[str, float]:
    """Bytes that a thousand predictions add to each queue while nothing is taken out.

    The first third is left out: until then requests are under way, which are in no queue.
    """
    first, last = looks[len(looks) // 3], looks[-1]
    made = last.lines - first.lines
    if made <= 0:
        raise UserError("No log line was read during the outage: see `make status`.")
    return {name: (last.queues[name] - first.queues.get(name, 0)) / made * THOUSAND for name in last.queues}


def total(text: str, metric: str) -> float:
    """Sum over all series of a metric in a server's own metrics; :class:`NotYet` where there is none."""
    return sum(by_label(text, metric, "").values())


def by_label(text: str, metric: str, label: str) -> dict[str, float]:
    """The same by the value of a label."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metric:
                key = sample.labels.get(label, "")
                found[key] = found.get(key, 0) + sample.value
    if not found:
        raise NotYet(f"there is no {metric}")
    return found


def costs(idle: tuple[Reading, Reading], load: tuple[Reading, Reading], of: str) -> list[Cost]:
    """Cost of each number of that kind (``counters`` or ``cpu``) from two pairs of readings.

    Processor time is the whole of it: a server compacts what it has when it likes, also in the idle time.
    """
    quiet, busy = ({name: _grown(pair, of, name) for name in getattr(pair[1], of)} for pair in (idle, load))
    made = predicted(load)
    if made <= 0:
        raise UserError("No prediction was counted during the load: see `make status`.")
    seconds = load[1].second - load[0].second
    found = []
    for name, grown in busy.items():
        rate = quiet[name] / (idle[1].second - idle[0].second)
        by_itself = 0.0 if of == "cpu" else rate * seconds
        found.append(Cost(name, rate, (grown - by_itself) / made * THOUSAND))
    return found


def predicted(pair: tuple[Reading, Reading]) -> float:
    """How many predictions were counted between two readings."""
    before, after = (reading.predictions for reading in pair)
    return sum(count - before.get(instance, 0) for instance, count in after.items())


def _grown(pair: tuple[Reading, Reading], of: str, name: str) -> float:
    before, after = (getattr(reading, of)[name] for reading in pair)
    if after < before:
        raise UserError(f"{name} fell from {before:g} to {after:g}: something was restarted or cut; measure again.")
    return float(after - before)


class Bench:
    """Reads the servers of one stack."""

    def __init__(self, loaded: Settings, where: Target) -> None:
        self.settings = loaded
        self.where = where
        self.prometheus = backends.Prometheus(where.prometheus_url)
        self.supervisor = supervise.Supervisor(loaded.state_dir)

    def metrics(self, server: str) -> str:
        """A server's own metrics."""
        return backends.get(server, f"{self.settings.url(PORTS[server])}/metrics").text

    def predictions(self) -> dict[str, float]:
        """How many predictions each instance counted, as Prometheus knows it."""
        label = signals.SERVICE_INSTANCE_ID.label
        samples = self.prometheus.query(f"sum by ({label}) ({PREDICTIONS})")
        return {sample.labels[label]: sample.value for sample in samples}

    def flush(self) -> None:
        """Bring what is in memory to object storage, and wait until it is there."""
        backends.Loki(self.where.loki_url).flush()
        backends.Tempo(self.where.tempo_url).flush()
        self._final(lambda: [self.counters()[name] for name in (CHUNKS, BLOCKS)], COMPLETION, "what is stored")

    def counters(self) -> dict[str, float]:
        """Every counter now."""
        texts = {server: self.metrics(server) for server in {counter.server for counter in COUNTERS}}
        return {counter.name: total(texts[counter.server], counter.metric) for counter in COUNTERS}

    def reading(self) -> Reading:
        """Everything now."""
        cpu = {name: sum(_times(process) for process in family) for name, family in self._families().items()}
        return Reading(time.monotonic(), self.predictions(), self.counters(), cpu)

    def arrived(self) -> None:
        """Wait until the last prediction was counted; its line and spans are there before."""
        self._final(self.predictions, ARRIVAL, "counted predictions")

    def look(self, peaks: Peaks) -> None:
        """Note what is only there for a moment."""
        resident = {
            name: float(sum(_resident(process) for process in family)) for name, family in self._families().items()
        }
        peaks.see(resident, self.queues())

    def queues(self) -> dict[str, float]:
        """Bytes in each queue of the Collector, by exporter."""
        return by_label(self.metrics("collector"), QUEUE, "exporter")

    def waiting(self) -> Waiting:
        """What waits at this moment."""
        lines = total(self.metrics("promtail"), COUNTERS[0].metric)
        return Waiting(lines, self.queues())

    def series(self) -> dict[str, float]:
        """Active series: of one instance of the service, of each other origin, and all; samples a second as well."""
        service = f'{{{signals.SERVICE_NAME.name.replace(".", "_")}="{SERVICE}"}}'
        instances = self.prometheus.total(f"count(count by (service_instance_id) ({service}))")
        # A function over time would leave out the names, by which the series differ.
        raw = backends.get(
            "prometheus", f"{self.where.prometheus_url}/api/v1/query", {"query": f"{service}[1m]"}
        ).json()
        # A native histogram has samples of its own kind.
        rows = raw["data"]["result"]
        samples = sum(len(row.get("values", ())) + len(row.get("histograms", ())) for row in rows) / 60
        found = {
            f"one instance of {SERVICE}": self.prometheus.total(f"count({service})") / max(1, instances),
            f"one instance of {SERVICE}, samples a second": samples / max(1, instances),
        }
        for sample in self.prometheus.query('count by (service_name) ({service_name!=""})'):
            if sample.labels["service_name"] != SERVICE:
                found[sample.labels["service_name"]] = sample.value
        found["all"] = total(self.metrics("prometheus"), HEAD)
        return found

    def _families(self) -> dict[str, list[psutil.Process]]:
        found = {}
        for name, state in self.supervisor.states().items():
            if state.pid:
                parent = psutil.Process(state.pid)
                found[name] = [parent, *parent.children(recursive=True)]
        return found

    def _final(self, look: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until a look sees the same for that long."""
        seen: list[tuple[float, object]] = []

        def same() -> None:
            now = look()
            if not seen or seen[-1][1] != now:
                seen.append((time.monotonic(), now))
            if time.monotonic() - seen[-1][0] < seconds:
                raise NotYet(f"{what} still change")

        polling.until(same, timeout=TIMEOUT, interval=LOOK, what=f"{what} to be final")


def _times(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def load(users: int, seconds: float, look: Callable[[], None]) -> None:
    """Send good requests for that long, and look once a second."""
    options = ("--users", str(users), "--duration", str(seconds), "--corrupt", "0", "--no-publish")
    with background.load(*options) as process:
        while process.poll() is None:
            look()
            time.sleep(LOOK)


def outage(bench: Bench, users: int, seconds: float) -> dict[str, float]:
    """Stop the servers behind the Collector, load, and start them again: see :func:`queued`."""
    looks: list[Waiting] = []
    try:
        for name in KEEPERS:
            if not _control("stop", name):
                raise UserError(f"{name} could not be stopped: see `make status`.")
        load(users, seconds, lambda: looks.append(bench.waiting()))
    finally:
        away = [name for name in KEEPERS if not _control("start", name)]
    if away:
        raise UserError(
            f"{', '.join(away)} did not start again: see `make status`, and start the stack with `make up`."
        )
    bench.arrived()
    return queued(looks)


def _control(verb: str, name: str) -> bool:
    command = [sys.executable, "-m", "sightglass", verb, name]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--users", type=click.IntRange(1, 64), default=2, help="Users that send one request after the other.")
@click.option("--seconds", type=click.FloatRange(10, 3600), default=120.0, help="Of load.")
@click.option("--idle", type=click.FloatRange(10, 3600), default=60.0, help="Seconds without load before it.")
@click.option("--outage", "down", type=click.FloatRange(0, 600), default=0.0, help="Seconds of load with servers down.")
def main(users: int, seconds: float, idle: float, down: float) -> None:
    """Print what a thousand predictions cost: signals, bytes stored, processor time, and the series of an instance."""
    loaded = settings.load()
    where = target.running(loaded)
    bench, console, peaks = Bench(loaded, where), screen.console(), Peaks()
    try:
        with console.status("warming up") as status:
            load(users, 10, lambda: None)
            bench.flush()
            quiet = bench.reading()
            status.update(f"{idle:g} s without load")
            time.sleep(idle)
            bench.flush()
            before = bench.reading()
            status.update(f"{seconds:g} s of load")
            load(users, seconds, lambda: bench.look(peaks))
            status.update("waiting for the last signals")
            bench.arrived()
            bench.flush()
            after = bench.reading()
            series = bench.series()
            status.update(f"{down:g} s of load without Prometheus, Loki and Tempo")
            queues = outage(bench, users, down) if down else {}
    except (NotYet, DeadlineError) as reason:
        raise UserError(f"{reason}: start the stack with `make up`, or see `make status`.") from None
    pairs = (quiet, before), (before, after)
    _show(console, pairs, seconds, peaks, series, queues)


def _show(
    console: Console,
    pairs: tuple[tuple[Reading, Reading], tuple[Reading, Reading]],
    seconds: float,
    peaks: Peaks,
    series: Mapping[str, float],
    queues: Mapping[str, float],
) -> None:
    made = predicted(pairs[1])
    signals_table = _table(f"Signals of {made:,.0f} predictions, {made / seconds:,.0f} a second", "per thousand")
    for cost in costs(*pairs, "counters"):
        signals_table.add_row(cost.name, f"{cost.idle:,.1f}", f"{cost.per_thousand:,.0f}")
    console.print(signals_table)
    processor = _table("Processor time and memory", "CPU seconds per thousand", "most resident MiB")
    for cost in costs(*pairs, "cpu"):
        most = peaks.resident.get(cost.name, 0) / 2**20
        processor.add_row(cost.name, f"{cost.idle:.3f}", f"{cost.per_thousand:.2f}", f"{most:.0f}")
    console.print(processor)
    rest = Table(title="Series and queues", title_justify="left")
    for heading in ("what", "number"):
        rest.add_column(heading, justify="left" if heading == "what" else "right")
    for name, value in series.items():
        rest.add_row(f"active series, {name}", f"{value:,.0f}")
    for name, value in peaks.queues.items():
        rest.add_row(f"most bytes in the queue of {name}", f"{value:,.0f}")
    for name, value in queues.items():
        rest.add_row(f"bytes per thousand in the queue of {name}, its server down", f"{value:,.0f}")
    console.print(rest)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("what", "idle, per second", *columns):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    return table


if __name__ == "__main__":
    main()
