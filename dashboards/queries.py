"""Queries: PromQL that many panels share, and the targets that carry a query to its data source."""

from grafana_foundation_sdk.builders import loki, prometheus, tempo
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.names import Source
from dashboards.variables import INTERVAL
from ml_telemetry import signals
from ml_telemetry.signals import Instrument, Metric

Target = prometheus.Dataquery | loki.Dataquery | tempo.TempoQuery
"""A query of a panel, before it has its letter."""


def reference(source: Source) -> DataSourceRef:
    """How a panel, target, variable or annotation names its data source."""
    return DataSourceRef(type_val=source.value, uid=source.value)


# --- PromQL -----------------------------------------------------------------------------------------------------------


def selector(*matchers: str) -> str:
    """Join matchers like ``a="b"`` to ``{...}``; empty ones are left out."""
    return "{" + ", ".join(matcher for matcher in matchers if matcher) + "}"


def rate(metric: Metric | str, *matchers: str) -> str:
    """Per-second rate over the interval variable; of a histogram its count."""
    return f"rate({_series(metric)}{selector(*matchers)}[{INTERVAL}])"


def increase(metric: Metric | str, *matchers: str) -> str:
    """Growth over the interval variable; of a histogram its count."""
    return f"increase({_series(metric)}{selector(*matchers)}[{INTERVAL}])"


def total(expression: str, *by: str) -> str:
    """Sum, over everything or by labels."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def quantile(share: float, metric: Metric | str, *matchers: str, by: tuple[str, ...] = ()) -> str:
    """Quantile (0 to 1) of a histogram over the interval variable."""
    if _native(metric):
        return f"histogram_quantile({share:g}, {total(rate(metric, *matchers), *by)})"
    name = metric if isinstance(metric, str) else metric.prometheus_name
    return f"histogram_quantile({share:g}, {total(rate(f'{name}_bucket', *matchers), 'le', *by)})"


def buckets(metric: Metric | str, *matchers: str) -> str:
    """Observations per bucket, for a heatmap."""
    name = metric if isinstance(metric, str) else metric.prometheus_name
    return total(increase(f"{name}_bucket", *matchers), "le")


def mean(metric: Metric | str, *matchers: str, by: tuple[str, ...] = ()) -> str:
    """Mean of a histogram over the interval variable; nothing where nothing was observed."""
    if _native(metric):
        return f"histogram_avg({total(rate(metric, *matchers), *by)})"
    name = metric if isinstance(metric, str) else metric.prometheus_name
    return ratio(total(rate(f"{name}_sum", *matchers), *by), total(rate(f"{name}_count", *matchers), *by))


def limit(name: str, *matchers: str) -> str:
    """What the model declares as that limit."""
    chosen = selector(*matchers, f'{signals.LIMIT.label}="{name}"')
    return f"max({signals.MODEL_LIMIT.prometheus_name}{chosen})"


def ratio(part: str, whole: str) -> str:
    """One divided by the other, and nothing instead of "not a number" where the whole is 0."""
    return f"{part} / ({whole} > 0)"


def or_zero(expression: str, like: str) -> str:
    """Zero where the expression has no series yet but ``like`` has: no error so far is a line at 0, not a gap."""
    return f"({expression} or 0 * {like})"


def _native(metric: Metric | str) -> bool:
    """Whether Prometheus keeps it as a native histogram: one series under its own name."""
    return not isinstance(metric, str) and metric.instrument is Instrument.EXPONENTIAL


def _series(metric: Metric | str) -> str:
    if isinstance(metric, str):
        return metric
    suffix = "_count" if metric.instrument is Instrument.HISTOGRAM else ""
    return f"{metric.prometheus_name}{suffix}"


# --- Targets ----------------------------------------------------------------------------------------------------------


def prom(expression: str, legend: str = "", *, exemplars: bool = False) -> prometheus.Dataquery:
    """PromQL over the dashboard's time range; ``exemplars`` adds the traces behind a histogram as dots."""
    target = prometheus.Dataquery().expr(expression).range().legend_format(legend).exemplar(exemplars)
    return target.datasource(reference(Source.PROMETHEUS))


def prom_now(expression: str, legend: str = "", *, table: bool = False) -> prometheus.Dataquery:
    """PromQL at the end of the time range; as a table, each label is a column."""
    kind = PromQueryFormat.TABLE if table else PromQueryFormat.TIME_SERIES
    target = prometheus.Dataquery().expr(expression).instant().legend_format(legend).format(kind).exemplar(False)
    return target.datasource(reference(Source.PROMETHEUS))


def prom_heat(expression: str, *, exemplars: bool = True) -> prometheus.Dataquery:
    """PromQL whose series are the buckets of a histogram."""
    target = prometheus.Dataquery().expr(expression).range().legend_format("{{le}}").exemplar(exemplars)
    return target.format(PromQueryFormat.HEATMAP).datasource(reference(Source.PROMETHEUS))


def logql(expression: str, legend: str = "", *, lines: int | None = None) -> loki.Dataquery:
    """LogQL over the time range; ``lines`` is the most log lines that are shown."""
    target = loki.Dataquery().expr(expression).query_type("range").datasource(reference(Source.LOKI))
    return target.max_lines(lines) if lines else target.legend_format(legend)


def traceql(expression: str, *, limit: int = 20) -> tempo.TempoQuery:
    """TraceQL search over the time range."""
    return tempo.TempoQuery().query_type("traceql").query(expression).limit(limit).datasource(reference(Source.TEMPO))
