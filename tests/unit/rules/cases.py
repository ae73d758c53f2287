"""Cases of every alert rule, as promtool's unit tests: it fires, does not fire just below, and clears.

Times are seconds since the start of a case. Where a rule has several conditions, each has its own case below.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

Series = Mapping[str, str]
"""Promtool's notation of values by series."""
Kind = Literal["fires", "below", "clears"]
STEP: Final = 5
"""Seconds between two samples, and between two evaluations."""
SERVICE: Final = "text-classifier"
END: Final = 1200
"""Seconds that a series goes on when its last phase does not say."""


@dataclass(frozen=True)
class Case:
    """One promtool test: series, the moments at which the alert must not fire, and the one at which it must."""

    alert: str
    kind: Kind
    series: Series
    quiet: tuple[int, ...] = ()
    firing: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the firing alert beside the rule's own."""
    value: str = ""
    """What the annotations say for ``$value``; annotations are only compared in cases that fire."""
    note: str = ""

    @property
    def name(self) -> str:
        """Name of the promtool test."""
        return f"{self.alert} {self.kind}" + (f": {self.note}" if self.note else "")


def counter(*phases: tuple[float, float | None], step: int = STEP) -> str:
    """Samples of a counter that starts at 0: seconds and growth per second of each phase, None without samples."""
    text, value = [], 0.0
    for seconds, rate in phases:
        count = round(seconds / step)
        if rate is None:
            text.append(f"_x{count}")
        else:
            text.append(f"{value:.10g}+{rate * step:.10g}x{count - 1}")
            value += rate * step * count
    return " ".join(text)


def jump(at: int, by: float, rate: float = 0.0) -> str:
    """Samples of a counter that grows by ``rate`` per second, and at one moment by a number more."""
    before, after = round(at / STEP), round((END - at) / STEP)
    return f"0+{rate * STEP:.10g}x{before - 1} {rate * at + by:.10g}+{rate * STEP:.10g}x{after}"


def gauge(*phases: tuple[float, float | None]) -> str:
    """Samples of a gauge: seconds and value of each phase, None without samples."""
    parts = ((round(seconds / STEP), value) for seconds, value in phases)
    return " ".join(f"_x{count}" if value is None else f"{value:.10g}x{count - 1}" for count, value in parts)


def named(metric: str, **labels: str) -> str:
    """A series of the service's first worker, unless the labels say otherwise."""
    labels = {"service_name": SERVICE, "service_instance_id": "a"} | labels
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items() if value) + "}"


def requests(metric: str = "http_server_request_duration_seconds_count", status: str = "200", **labels: str) -> str:
    """A series of the HTTP server's metrics on the route of predictions."""
    return named(metric, http_route="/predict", http_response_status_code=status, **labels)


def model(**labels: str) -> Series:
    """What a service says of its model: on which route it predicts."""
    return {named("ml_model_info", http_route="/predict", **labels): gauge((END, 1))}


def ended(case: Case, cleared: int, series: Series | None = None) -> Case:
    """The same story until the alert has cleared."""
    told = case.series if series is None else series
    return replace(case, kind="clears", series=told, quiet=(cleared,))


OBSERVED: Final = {f'observed:service:info{{service_name="{SERVICE}"}}': gauge((END, 1))}
"""Which service there must be, as the table of services says."""
PROMETHEUS: Final = {'process_start_time_seconds{service_name="prometheus"}': gauge((END, 0))}
ALIVE: Final = {named("otelcol_process_uptime_total", service_name="otel-collector"): counter((END, 1))}


# --- Something is gone ------------------------------------------------------------------------------------------------


def gone(
    alert: str, series: str, labels: Mapping[str, str], window: int, hold: int, more: Series | None = None
) -> Iterator[Case]:
    """A pushed series ends at 300 s: silent after its window, fires when it stays so; also at the very start."""
    others = {**(more or {}), **PROMETHEUS, **({} if alert == "CollectorDown" else ALIVE)}
    at = 295 + window + hold
    dead = Case(
        *(alert, "fires", {**others, series: counter((300, 1), (200, None), (500, 1))}),
        quiet=(at - STEP,),
        firing=at,
        labels=labels,
    )
    yield dead
    yield ended(dead, 500)
    never = 180 + hold
    yield Case(alert, "fires", others, (never - STEP,), never, labels, note="it never came up")
    soon = {**others, series: counter((60, 1), (900, None))}
    yield Case(alert, "fires", soon, (), 60 - STEP + window + hold, labels, note="it ends soon after the start")
    yield Case(
        alert, "below", {**others, series: counter((300, 1), (at - 305, None), (600, 1))}, (at,), note="a restart"
    )
    yield Case(alert, "below", {**others, series: counter((175, None), (600, 1))}, (175, 240), note="a slow start")
    if alert != "CollectorDown":
        silent = {name: counter((300, 1), (END, None)) for name in ALIVE}
        both = {**others, **silent, series: counter((300, 1))}
        yield Case(alert, "below", both, (at, 900), note="the Collector is gone")


def _gone() -> Iterator[Case]:
    yield from gone("ServiceDown", named("ml_model_info"), {"service_name": SERVICE}, 15, 45, OBSERVED)
    both = {**OBSERVED, 'observed:service:info{service_name="other"}': gauge((END, 1)), **PROMETHEUS, **ALIVE}
    one = {**both, named("ml_model_info"): counter((END, 1))}
    yield Case("ServiceDown", "fires", one, (220,), 225, {"service_name": "other"}, note="another service is down")
    two = {**one, named("ml_model_info", service_name="other"): counter((300, 1), (900, None))}
    yield Case("ServiceDown", "fires", two, (350,), 355, {"service_name": "other"}, note="another service goes down")
    left = {**PROMETHEUS, **ALIVE, named("ml_model_info"): counter((300, 1), (900, None))}
    yield Case("ServiceDown", "below", left, (400, 900), note="a service that was left out")
    (uptime,) = ALIVE
    yield from gone("CollectorDown", uptime, {"service_name": "otel-collector"}, 20, 40)
    probes = named("canary_probes_total", service_name="canary", signal="traces")
    yield from gone("CanaryDown", probes, {"service_name": "canary"}, 30, 60)


def _server_down() -> Iterator[Case]:
    labels = {"service_name": "loki", "job": "servers", "instance": "127.0.0.1:3100"}
    up = named("up", **labels, service_instance_id="")
    dead = Case(
        *("ServerDown", "fires", {**PROMETHEUS, up: gauge((300, 1), (200, 0), (500, 1))}),
        quiet=(325,),
        firing=330,
        labels=labels,
    )
    yield dead
    yield ended(dead, 500)
    soon = {**PROMETHEUS, up: gauge((60, 1), (500, 0))}
    yield Case("ServerDown", "fires", soon, (85,), 90, labels, note="it dies soon after the start")
    never = {**PROMETHEUS, up: gauge((500, 0))}
    yield Case("ServerDown", "fires", never, (205,), 210, labels, note="it never came up")
    yield Case("ServerDown", "below", {**PROMETHEUS, up: gauge((300, 1), (30, 0), (300, 1))}, (330,), note="a restart")
    yield Case("ServerDown", "below", {**PROMETHEUS, up: gauge((175, 0), (300, 1))}, (175, 240), note="a slow start")


# --- The service ------------------------------------------------------------------------------------------------------


def silence(alert: str, total: str) -> Iterator[Case]:
    """Requests go on at twelve a minute, and what the Collector receives of them ends at 300 s."""
    served = {**model(), requests(): counter((END, 0.2))}
    labels = {"service_name": SERVICE}
    ends = Case(
        *(alert, "fires", {**served, named(total): counter((300, 1), (200, None), (500, 1))}),
        quiet=(380,),
        firing=385,
        labels=labels,
        value="12",
    )
    yield ends
    yield ended(ends, 500)
    stands = {**served, named(total): counter((300, 1), (200, 0))}
    yield Case(alert, "fires", stands, (385,), 390, labels, "12", note="the number stays the same")
    yield Case(alert, "fires", served, (), 385, labels, "12", note="there never was any")
    few = {**model(), requests(): counter((END, 0.15)), named(total): counter((300, 1))}
    yield Case(alert, "below", few, (385, 900), note="nine requests a minute")
    yield Case(alert, "below", {**served, named(total): counter((END, 1 / 30))}, (385, 900), note="a few arrive")
    foreign = {**served, named(total): counter((END, 1)), requests(service_name="other"): counter((END, 0.1))}
    foreign |= model(service_name="other")
    yield Case(alert, "below", foreign, (385, 900), note="another service serves little")
    pages = {**model(), requests().replace("/predict", "/docs"): counter((END, 1))}
    yield Case(alert, "below", pages, (385, 900), note="nobody asks for a prediction")
    burst = {**model(), requests(): counter((300, None), (600, 0.2)), named(total): counter((300, None), (600, 1))}
    yield Case(alert, "below", burst, (330, 345, 385), note="the first requests")


def _dropped() -> Iterator[Case]:
    series = named("ml_telemetry_dropped_total", signal="traces", reason="queue_full")
    labels = {"service_name": SERVICE, "signal": "traces", "reason": "queue_full"}
    first = Case(
        *("TelemetryDropped", "fires", {series: gauge((300, None), (900, 3))}),
        quiet=(295,),
        firing=300,
        labels=labels,
        value="3",
    )
    yield first
    yield ended(first, 360)
    more = {series: jump(600, 60)}
    yield Case("TelemetryDropped", "fires", more, (595,), 600, labels, "60", note="a count that was there")
    yield Case("TelemetryDropped", "below", {series: counter((END, 0))}, (300, 900))


def _wrong_content() -> Iterator[Case]:
    predictions = named("ml_predictions_total", label="rec.autos", track="stable")

    def unbacked(rate: float, more: float) -> Series:
        return {**model(), requests(): jump(600, more, rate), predictions: counter((END, rate))}

    labels = {"service_name": SERVICE}
    alert = "AnswerWithoutPrediction"
    many = Case(alert, "fires", unbacked(10, 8), (625,), 630, labels, "1.314%", "few of many")
    yield many
    yield ended(many, 660)
    yield Case(alert, "fires", unbacked(0.1, 6), (625,), 630, labels, "47.83%", "many of few")
    none = {**model(), requests(): counter((END, 0.1))}
    yield Case(alert, "fires", none, (75,), 80, labels, "100%", "no prediction ever")
    yield Case(alert, "below", unbacked(10, 5), (630, 655), note="too small a share")
    yield Case(alert, "below", unbacked(0.1, 4), (630, 655), note="too few")
    refused = {**unbacked(10, 0), requests(status="422"): counter((END, 10))}
    yield Case(alert, "below", refused, (630, 800), note="refused requests have no prediction")
    pages = {**unbacked(10, 0), requests().replace("/predict", "/docs"): counter((END, 10))}
    yield Case(alert, "below", pages, (630, 800), note="another route has no prediction")
    restart = {
        **model(),
        requests(): counter((600, 10)),
        predictions: counter((600, 10)),
        requests(service_instance_id="b"): counter((620, None), (500, 10)),
        predictions.replace('"a"', '"b"'): counter((620, None), (500, 10)),
    }
    yield Case(alert, "below", restart, (620, 660, 900, 1000), note="a restart")

    def small(rate: float, more: float) -> Series:
        crossed = named("ml_limit_crossed_total", limit="smallest_answer_bytes")
        declared = {named("ml_model_limit", limit="smallest_answer_bytes"): gauge((END, 256))}
        return {**model(), **declared, requests(): jump(600, more, rate), crossed: jump(600, more)}

    alert, labels = "AnswerTooSmall", {"service_name": SERVICE, "declared": "256"}
    many = Case(alert, "fires", small(10, 7), (625,), 630, labels, "1.152%", "few of many")
    yield many
    yield ended(many, 660)
    yield Case(alert, "fires", small(0.1, 6), (625,), 630, labels, "47.83%", "many of few")
    yield Case(alert, "below", small(10, 5), (630, 655), note="too small a share")
    yield Case(alert, "below", small(0.1, 4), (630, 655), note="too few")


def _confidence() -> Iterator[Case]:
    def unsure(rate: float, share: float, until: int = END, synthetic: str = "false") -> Series:
        asked = {"track": "stable", "synthetic": synthetic}
        crossed = named("ml_limit_crossed_total", limit="confidence", **asked)
        return {
            named("ml_model_limit", limit="confidence"): gauge((END, 0.45)),
            named("ml_predictions_total", label="rec.autos", **asked): counter((END, rate)),
            crossed: counter((until, rate * share), (END - until + STEP, 0)),
        }

    alert, labels = "ConfidenceCollapse", {"service_name": SERVICE, "track": "stable", "declared": "0.45"}
    most = Case(alert, "fires", unsure(1, 0.6), (85,), 90, labels, "60%")
    yield most
    yield ended(replace(most, firing=590), 660, unsure(1, 0.6, until=600))
    yield Case(alert, "fires", unsure(0.32, 0.6), (150,), 155, labels, "60%", "few predictions")
    yield Case(alert, "below", unsure(1, 0.4), (90, 900), note="not most")
    yield Case(alert, "below", unsure(1, 0.6, synthetic="true"), (90, 900), note="a load test's input")
    two = {**unsure(1, 0.6), named("ml_model_limit", limit="confidence", service_instance_id="b"): gauge((END, 0.4))}
    yield Case(alert, "fires", two, (85,), 90, labels, "60%", note="two versions declare different limits")
    yield Case(alert, "below", unsure(0.2, 0.6), (155, 900), note="too few predictions")


def _saturation() -> Iterator[Case]:
    def turned_away(rate: float, more: float, reason: str = "overloaded") -> Series:
        rejected = named("ml_requests_rejected_total", reason=reason)
        return {**model(), requests(): counter((END, rate)), rejected: jump(600, more)}

    alert, labels = "Saturation", {"service_name": SERVICE, "sign": "rejections"}
    many = Case(alert, "fires", turned_away(10, 7), (610,), 615, labels, "1.167%", "few of many")
    yield many
    yield ended(many, 660)
    yield Case(alert, "fires", turned_away(1, 6, "timeout"), (610,), 615, labels, "10%", "many of few")
    yield Case(alert, "below", turned_away(10, 5), (615, 655), note="too small a share")
    yield Case(alert, "below", turned_away(1, 4), (615, 655), note="too few")
    yield Case(alert, "below", turned_away(1, 100, "empty_text"), (615, 655), note="the callers' own mistakes")
    active = named("http_server_active_requests", http_request_method="POST")
    labels = {"service_name": SERVICE, "sign": "active_requests"}
    declared = {named("ml_model_limit", limit="in_progress"): gauge((END, 96))}
    waiting = Case(
        *(alert, "fires", {**declared, active: gauge((300, 0), (200, 110), (500, 0))}, (325,), 330),
        labels=labels,
        value="1.146",
        note="requests wait",
    )
    yield waiting
    yield ended(waiting, 500)
    yield Case(alert, "below", {**declared, active: gauge((300, 0), (200, 80))}, (330, 450), note="not so many wait")
    yield Case(alert, "below", {**declared, active: gauge((300, 0), (20, 110))}, (330, 450), note="the worker is gone")


# --- The road of the signals ------------------------------------------------------------------------------------------


def _collector() -> Iterator[Case]:
    items = {"traces": "spans", "logs": "log_records", "metrics": "metric_points"}
    for signal, item in items.items():
        series = named(f"otelcol_receiver_refused_{item}_total", service_name="otel-collector", receiver="otlp")
        labels = {"receiver": "otlp", "signal": signal}
        refused = Case("CollectorRefuses", "fires", {series: jump(300, 24)}, (295,), 300, labels, "24", signal)
        yield refused
        yield ended(refused, 360)
        yield Case("CollectorRefuses", "below", {series: jump(300, 0)}, (300, 600), note=signal)
        for kind in ("send_failed", "enqueue_failed"):
            name = f"otelcol_exporter_{kind}_{item}_total"
            series = named(name, service_name="otel-collector", exporter="otlp_http/loki")
            labels = {"exporter": "otlp_http/loki", "signal": signal}
            first = {series: gauge((300, None), (900, 7))}
            lost = Case("CollectorDrops", "fires", first, (295,), 300, labels, "7", f"{signal}, {kind}")
            yield lost
            yield ended(lost, 360)
            yield Case(
                "CollectorDrops", "fires", {series: jump(300, 24)}, (295,), 300, labels, "24", f"more {item}, {kind}"
            )
            yield Case("CollectorDrops", "below", {series: jump(300, 0)}, (300, 600), note=f"{signal}, {kind}")
    labels = {"service_name": "foreign", "signal": "metrics", "reason": "time_ahead"}
    series = named("telemetry_refused_total", **labels)
    first = {series: gauge((300, None), (900, 7))}
    left_out = Case("TelemetryRefused", "fires", first, (295,), 300, labels, "7")
    yield left_out
    yield ended(left_out, 360)
    yield Case("TelemetryRefused", "fires", {series: jump(300, 24)}, (295,), 300, labels, "24", note="more of them")
    yield Case("TelemetryRefused", "below", {series: jump(300, 0)}, (300, 600))
    yield from _behind()
    labels = {"exporter": "otlp_http/loki", "data_type": "logs"}
    size, capacity = (named(f"otelcol_exporter_queue_{n}", service_name="c", **labels) for n in ("size", "capacity"))
    fills = {size: gauge((300, 10), (200, 60), (500, 10)), capacity: gauge((1000, 100))}
    full = Case("CollectorQueueFills", "fires", fills, (325,), 330, labels, "60%")
    yield full
    yield ended(full, 500)
    yield Case("CollectorQueueFills", "below", {**fills, size: gauge((300, 10), (200, 40))}, (330, 450))


def _behind() -> Iterator[Case]:
    labels = {"service_name": "promtail", "instance": "a", "path": "/var/log/pods/x/0.log"}
    size, read = (named(f"promtail_{kind}_bytes_total", service_instance_id="", **labels) for kind in ("file", "read"))
    behind = {size: gauge((300, 9e6), (200, 19e6), (500, 19e6)), read: gauge((300, 8e6), (200, 12e6), (500, 18e6))}
    alert = Case("PromtailBehind", "fires", behind, (325,), 330, labels, "6.676Mi")
    yield alert
    yield ended(alert, 500)
    yield Case("PromtailBehind", "below", {**behind, read: gauge((300, 8e6), (200, 14e6))}, (330, 450))


def _canary() -> Iterator[Case]:
    labels = {"signal": "logs"}
    delay = named("canary_delay_seconds", service_name="canary", **labels)
    late = Case(
        *("IngestDelay", "fires", {delay: gauge((300, 2), (200, 12), (500, 2))}, (325,), 330),
        labels=labels,
        value="12s",
    )
    yield late
    yield ended(late, 500)
    yield Case("IngestDelay", "below", {delay: gauge((300, 2), (200, 9))}, (330, 450))
    lost = named("canary_lost_total", service_name="canary", **labels)
    two = Case("SignalLost", "fires", {lost: jump(300, 2)}, (295,), 300, labels, "2")
    yield two
    yield ended(two, 420)
    yield Case("SignalLost", "below", {lost: jump(300, 1)}, (300, 415))


def _storage() -> Iterator[Case]:
    labels = {"service_name": "host", "device": "/dev/vda1"}

    def disk(used: float, mountpoint: str = "/") -> Series:
        usage = {"service_name": "host", "device": "/dev/vda1", "mountpoint": mountpoint}
        name = "system_filesystem_usage_bytes"
        return {
            named(name, **usage, state="used"): gauge((300, 50), (200, used), (500, 50)),
            named(name, **usage, state="free"): gauge((300, 50), (200, 100 - used), (500, 50)),
            named(name, **usage, state="reserved"): gauge((1000, 40)),
        }

    full = Case("DiskFills", "fires", {**disk(95), **disk(95, "/var")}, (355,), 360, labels, "95%")
    yield full
    yield ended(full, 500)
    yield Case("DiskFills", "below", {**disk(85), **disk(85, "/var")}, (360, 450))

    def store(free: float) -> Series:
        name = "minio_cluster_capacity_usable"
        return {
            named(f"{name}_free_bytes", service_name="minio"): gauge((300, 50), (200, free), (500, 50)),
            named(f"{name}_total_bytes", service_name="minio"): gauge((1000, 100)),
        }

    full = Case("ObjectStoreFills", "fires", store(5), (325,), 330, {}, "95%")
    yield full
    yield ended(full, 500)
    yield Case("ObjectStoreFills", "below", store(15), (330, 450))


def _watchdog() -> Iterator[Case]:
    # It must never be quiet: that it does not fire is what its receiver notices.
    yield Case("Watchdog", "fires", {}, firing=0)
    yield Case("Watchdog", "fires", {}, firing=900, note="still")


# --- A gap ------------------------------------------------------------------------------------------------------------

GAP: Final = 7200
"""Seconds without any sample, as of a machine that sleeps; ten minutes come before and after it."""
BACK: Final = 600 + GAP
GAP_STEP: Final = 15
"""Like :data:`STEP`, for these long cases."""


def _around(before: float, after: float, growth: float = 0) -> str:
    """Samples before and after the gap, each from a first value with a growth per second."""
    count, step = 600 // GAP_STEP, growth * GAP_STEP
    return f"{before:.10g}+{step:.10g}x{count - 1} _x{GAP // GAP_STEP} {after:.10g}+{step:.10g}x{count}"


def _gap() -> Iterator[Case]:
    """What was counted before a gap is of no alert after it; after a start, a first count is."""
    (uptime,) = ALIVE
    (begun,) = PROMETHEUS
    slept = {uptime: _around(7200, 7200 + BACK, 1), begun: _around(-7200, -7200)}
    gaps = {
        "the machine slept": slept,
        "Prometheus was away": {**slept, begun: _around(-7200, BACK)},
        "the Collector was away": {**slept, uptime: _around(7200, 0, 1)},
    }
    started = {uptime: _around(7200, 0, 1), begun: _around(-7200, BACK)}
    dropped = named("ml_telemetry_dropped_total", signal="traces", reason="queue_full")
    lost = named("otelcol_exporter_send_failed_spans_total", service_name="otel-collector", exporter="otlp/tempo")
    (served,) = model()
    answers = {
        served: _around(1, 1),
        requests(): _around(0, 6000, 10),
        named("ml_predictions_total"): _around(0, 5000, 10),
    }
    told: dict[str, tuple[Series, Mapping[str, str]]] = {
        "TelemetryDropped": (
            {dropped: _around(60, 60)},
            {"service_name": SERVICE, "signal": "traces", "reason": "queue_full"},
        ),
        "CollectorDrops": ({lost: _around(60, 60)}, {"signal": "traces", "exporter": "otlp/tempo"}),
        "AnswerWithoutPrediction": (answers, {"service_name": SERVICE}),
    }
    for alert, (series, labels) in told.items():
        moments = tuple(range(BACK, BACK + 90, GAP_STEP))
        for note, gap in gaps.items():
            yield Case(alert, "below", {**gap, **series}, moments, note=note)
        first = BACK + (30 if alert == "AnswerWithoutPrediction" else 0)
        yield Case(
            alert, "fires", {**started, **series}, (BACK - GAP_STEP,), first, labels, note="all were started anew"
        )
    again, (_, labels) = {dropped: _around(60, 60, 1), **slept}, told["TelemetryDropped"]
    yield Case("TelemetryDropped", "fires", again, (BACK,), BACK + GAP_STEP, labels, note="new losses after a gap")


CASES: Final = (
    *_gone(),
    *_server_down(),
    *silence("SpansSilent", "telemetry_spans_total"),
    *silence("LogsSilent", "telemetry_log_records_total"),
    *_dropped(),
    *_wrong_content(),
    *_confidence(),
    *_saturation(),
    *_collector(),
    *_canary(),
    *_storage(),
    *_watchdog(),
)
GAPS: Final = (*_gap(),)
