"""The canary: sends a span, a log line and a point every few seconds and looks for each where people query it.

What it measures is the whole path of each signal, from a program that emits to the server that answers. It runs as
``python -m sightglass.runtime.canary`` and takes everything from its environment, so that it needs little memory.
"""

import json
import os
import signal as signals_of_the_system
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from logging import CRITICAL, getLogger
from socketserver import TCPServer
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, format_span_id, format_trace_id

from ml_telemetry.signals import LOG_KEYS, SYNTHETIC, Attribute, Instrument, Metric
from sightglass.clients import http
from sightglass.clients.backends import Loki, Prometheus, Tempo
from sightglass.clients.polling import NotYet

SIGNAL: Final = Attribute("signal", "Signal that is looked for.", values=("traces", "logs", "metrics"))
DELAY: Final = Metric(
    "canary.delay", Instrument.GAUGE, "s", "Emission to found; grows while a signal is not found.", (SIGNAL,)
)
LOST: Final = Metric("canary.lost", Instrument.COUNTER, "{probe}", "Probes not found in time.", (SIGNAL,))
PROBES: Final = Metric("canary.probes", Instrument.COUNTER, "{probe}", "Probes sent.", (SIGNAL,))
PROBE_TIME: Final = Metric("canary.probe.time", Instrument.GAUGE, "s", "Unix time of the newest probe: its point.")
METRICS: Final = (DELAY, LOST, PROBES, PROBE_TIME)
SPAN: Final = "canary.probe"
PROBE_EVENT, LOST_EVENT, FOUND_EVENT = "canary.probe", "canary.lost", "canary.found"

SEND_SECONDS: Final = 2.0
"""How long one attempt to send may take; what could not be sent is sent again."""
EXPORTS_PER_INTERVAL: Final = 3
"""How often the metrics are exported between two probes, so that a growing delay is seen growing."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 2.0
"""Seconds before each look for a signal: between these two, a fifth of what has passed since it was sent."""


@dataclass(frozen=True)
class Probe:
    """One of each signal, known by the ids of its span; ``time`` is Unix seconds in full milliseconds."""

    span: Span
    time: float
    started: float

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits: the id of the trace, and of the log line."""
        return format_trace_id(self.span.get_span_context().trace_id)

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return format_span_id(self.span.get_span_context().span_id)


def write_line(severity: str, event: str, message: str, probe: Probe, signal: str | None = None) -> None:
    """Write one JSON line with the keys that every service's line has."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    values = (now, severity, event, message, probe.trace_id, probe.span_id, "01", "sightglass.canary")
    line = dict(zip(LOG_KEYS, values, strict=True)) | {SYNTHETIC.name: True}
    print(json.dumps(line | ({SIGNAL.name: signal} if signal else {})), flush=True)


class Watch:
    """One signal: sends its part of a probe, then looks for it until it is found or the time is over.

    ``send`` and ``find`` raise :class:`NotYet` when they have to be called again.
    """

    def __init__(
        self,
        signal: str,
        timeout: float,
        send: Callable[[Probe], None],
        find: Callable[[Probe], object],
        stop: threading.Event,
    ) -> None:
        self.signal = signal
        self.lost = 0
        self.probes = 0
        self._timeout = timeout
        self._send = send
        self._find = find
        self._stop = stop
        self._lock = threading.Lock()
        self._started: float | None = None
        self._last: float | None = None
        self._missing = False

    def delay(self) -> float | None:
        """Seconds from emission to found of the newest probe, or how long it has not been found; None before any."""
        with self._lock:
            started, last = self._started, self._last
        if started is None:
            return last
        return max(min(time.monotonic() - started, self._timeout), last or 0.0)

    def offer(self, probe: Probe) -> bool:
        """Take this probe in a thread of its own, unless one is still being looked for."""
        with self._lock:
            if self._started is not None:
                return False
            self._started = probe.started
            self.probes += 1
        threading.Thread(target=self._follow, args=(probe,), name=self.signal, daemon=True).start()
        return True

    def _follow(self, probe: Probe) -> None:
        steps = [self._send, self._find]
        reason = ""
        while steps and (passed := time.monotonic() - probe.started) < self._timeout:
            try:
                steps[0](probe)
                del steps[0]
            except NotYet as state:
                reason = str(state)
            except Exception as error:  # whatever a server answers, the canary goes on
                reason = f"{type(error).__name__} while the signal was sent or looked for"
            if steps and self._stop.wait(min(max(passed / 5, SHORTEST_PAUSE), LONGEST_PAUSE)):
                return
        self._end(probe, found=not steps, reason=reason)

    def _end(self, probe: Probe, *, found: bool, reason: str) -> None:
        seconds = time.monotonic() - probe.started if found else self._timeout
        with self._lock:
            self._started, self._last = None, seconds
            self.lost += not found
            said, self._missing = self._missing, not found
        # Said once, however long it lasts.
        try:
            if not found and not said:
                message = f"{self.signal} were not found within {self._timeout:g} s: {reason}"
                write_line("WARN", LOST_EVENT, message, probe, self.signal)
            elif found and said:
                message = f"{self.signal} arrive again, {seconds:.1f} s after they were sent"
                write_line("INFO", FOUND_EVENT, message, probe, self.signal)
        except OSError:
            return  # nobody reads the log any more; the numbers are still of use


class Canary:
    """Sends probes until it is stopped. Addresses, ``interval`` and ``timeout`` (seconds) come from the environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.stop = threading.Event()
        self._interval = float(environment["CANARY_INTERVAL_SECONDS"])
        timeout = float(environment["CANARY_TIMEOUT_SECONDS"])
        resource = Resource({}).merge(OTELResourceDetector().detect())
        self._service = environment["OTEL_SERVICE_NAME"]
        # Never a proxy, and one set of kept connections for all that is sent and asked.
        self._spans = OTLPSpanExporter(session=http.session, timeout=SEND_SECONDS)
        points = OTLPMetricExporter(session=http.session, timeout=SEND_SECONDS)
        # Nothing is flushed at the end: a server that is gone must not hold up the stop.
        self._tracer = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False).get_tracer("sightglass.canary")
        reader = PeriodicExportingMetricReader(points, self._interval / EXPORTS_PER_INTERVAL * 1000)
        self._meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._tempo = Tempo(environment["TEMPO_URL"])
        self._loki = Loki(environment["LOKI_URL"])
        self._prometheus = Prometheus(environment["PROMETHEUS_URL"])
        paths: dict[str, tuple[Callable[[Probe], None], Callable[[Probe], object]]] = {
            "traces": (self._send_span, lambda probe: self._tempo.trace(probe.trace_id)),
            "logs": (self._send_line, self._find_line),
            "metrics": (self._send_point, self._find_point),
        }
        self.watches = [Watch(signal, timeout, *paths[signal], self.stop) for signal in SIGNAL.values]
        self._declare()

    def run(self) -> None:
        """Send a probe every interval until :attr:`stop` is set; a signal that is still looked for is left out."""
        due = time.monotonic()
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._interval, time.monotonic())
            probe = Probe(
                self._tracer.start_span(SPAN, attributes={SYNTHETIC.name: True}),
                round(time.time(), 3),
                time.monotonic(),
            )
            probe.span.end()
            for watch in self.watches:
                watch.offer(probe)

    def _declare(self) -> None:
        meter = self._meters.get_meter("sightglass.canary")

        def observed(value: Callable[[Watch], float | None]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            def callback(_: CallbackOptions) -> Iterable[Observation]:
                for watch in self.watches:
                    if (number := value(watch)) is not None:
                        yield Observation(number, {SIGNAL.name: watch.signal})

            return callback

        meter.create_observable_gauge(DELAY.name, [observed(Watch.delay)], DELAY.unit, DELAY.description)
        for metric, count in ((LOST, lambda watch: watch.lost), (PROBES, lambda watch: watch.probes)):
            meter.create_observable_counter(metric.name, [observed(count)], metric.unit, metric.description)
        self._point = meter.create_gauge(PROBE_TIME.name, PROBE_TIME.unit, PROBE_TIME.description)

    def _send_span(self, probe: Probe) -> None:
        assert isinstance(probe.span, ReadableSpan)  # noqa: S101 - the sampler takes every span
        if self._spans.export([probe.span]) is not SpanExportResult.SUCCESS:
            raise NotYet("the collector did not take the span")

    @staticmethod
    def _send_line(probe: Probe) -> None:
        try:
            write_line("INFO", PROBE_EVENT, "A probe.", probe)
        except OSError as error:
            raise NotYet(f"the line could not be written ({type(error).__name__})") from None

    def _send_point(self, probe: Probe) -> None:
        self._point.set(probe.time)
        # What this attempt does not deliver, the next periodic export does.
        self._meters.force_flush()

    def _find_line(self, probe: Probe) -> None:
        query = f'{{service_name="{self._service}"}} | event_name="{PROBE_EVENT}" | trace_id="{probe.trace_id}"'
        start = int((probe.time - 60) * 1e9)
        if not self._loki.lines(query, start=start, end=time.time_ns(), limit=1):
            raise NotYet(f"loki has no line of trace {probe.trace_id}")

    def _find_point(self, probe: Probe) -> None:
        samples = self._prometheus.query(f'{PROBE_TIME.prometheus_name}{{service_name="{self._service}"}}')
        if probe.time not in {sample.value for sample in samples}:
            raise NotYet(f"prometheus has {[sample.value for sample in samples]}, not {probe.time}")


class _Server(TCPServer):
    """An HTTP server that does not ask the resolver for its own name, as the library's does."""

    allow_reuse_address = True


class _Ready(BaseHTTPRequestHandler):
    """Answers every GET: a canary that answers can send and look."""

    timeout = 5.0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the log, which holds JSON lines only."""


def main() -> None:
    """Run until SIGTERM."""
    # The SDK would say the same on every attempt; the canary says it once, and for each signal.
    getLogger("opentelemetry").setLevel(CRITICAL)
    try:
        canary = Canary(os.environ)
        address = (os.environ["LISTEN_ADDRESS"], int(os.environ["CANARY_PORT"]))
    except KeyError as missing:
        sys.exit(f"{missing} is not set: `make up` starts the canary with all that it needs.")
    for number in (signals_of_the_system.SIGTERM, signals_of_the_system.SIGINT):
        signals_of_the_system.signal(number, lambda *_: canary.stop.set())
    server = _Server(address, _Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    canary.run()


if __name__ == "__main__":
    main()
