"""Template variables: the same names on every dashboard, so that links between them carry the choice along."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards.names import Source
from ml_telemetry import signals
from ml_telemetry.declaration import Declaration
from sightglass.facts.settings import SERVICE as DEFAULT_SERVICE

Variable = dashboard.QueryVariable | dashboard.IntervalVariable | dashboard.CustomVariable

ALL_VALUE: Final = ".*"
"""What "All" is in a regular-expression matcher; it also takes series without the label."""
INTERVAL: Final = "$interval"
"""The window of every rate."""
SERVICE: Final = 'service_name="$service"'
VERSION: Final = 'service_version=~"$version"'
TRACK: Final = f'{signals.TRACK.label}=~"$track"'
SYNTHETIC: Final = f'{signals.SYNTHETIC_LABEL.label}=~"$synthetic"'
FEATURE: Final = 'feature=~"$feature"'
ROUTE: Final = f'{signals.HTTP_ROUTE.label}="$route"'
REQUEST: Final = "POST $route"
"""Name of the span of a request for a prediction, and of what locust counts as one."""
NAMESPACE: Final = 'namespace=~"$namespace"'
AUTO_STEPS: Final = 120
"""The automatic interval is the time range divided by this, at least the dashboard's minimum."""
SLOW: Final = ("10ms", "50ms", "100ms", "250ms", "500ms", "1s", "5s")
_INTERVALS: Final = ("10s", "30s", "1m", "5m", "15m", "1h", "6h")


def service() -> Variable:
    """One service; its code's name, as every signal carries it."""
    label = signals.SERVICE_NAME.label
    return _query("service", "Service", signals.HTTP_DURATION.prometheus_name + "_count", label).current(
        VariableOption(selected=True, text=DEFAULT_SERVICE, value=DEFAULT_SERVICE)
    )


def route() -> Variable:
    """The route of predictions, as the model declares it."""
    metric = f"{signals.MODEL_INFO.prometheus_name}{{{SERVICE}}}"
    usual = VariableOption(selected=True, text=Declaration.route, value=Declaration.route)
    return _query("route", "Route", metric, signals.HTTP_ROUTE.label).current(usual)


def version() -> Variable:
    """Versions of the service's code."""
    metric = f"{signals.HTTP_DURATION.prometheus_name}_count{{{SERVICE}}}"
    return _many(_query("version", "Code version", metric, signals.SERVICE_VERSION.label))


def track() -> Variable:
    """Deployment tracks."""
    metric = f"{signals.MODEL_INFO.prometheus_name}{{{SERVICE}}}"
    return _many(_query("track", "Track", metric, signals.TRACK.label))


def synthetic() -> Variable:
    """Whether requests that the stack sends itself are shown: load tests and proofs."""
    metric = f"{signals.HTTP_DURATION.prometheus_name}_count{{{SERVICE}}}"
    return _many(_query("synthetic", "Synthetic", metric, signals.SYNTHETIC_LABEL.label))


def feature() -> Variable:
    """Numeric features that the model declares."""
    metric = f"{signals.FEATURE_VALUE.prometheus_name}{{{SERVICE}}}"
    return _many(_query("feature", "Feature", metric, signals.FEATURE.label))


def namespace() -> Variable:
    """Kubernetes namespaces."""
    return _many(_query("namespace", "Namespace", "kube_pod_info", "namespace"))


def slow() -> Variable:
    """From which duration on a request is listed as slow."""
    options = [VariableOption(selected=value == "100ms", text=value, value=value) for value in SLOW]
    chosen = next(option for option in options if option.selected)
    return (
        dashboard.CustomVariable("slow")
        .id("slow")
        .label("Slow from")
        .values(",".join(SLOW))
        .options(options)
        .current(chosen)
    )


def interval(minimum: str) -> Variable:
    """Window of the rates; ``minimum`` is the shortest that the automatic choice takes (some samples must fit in)."""
    automatic = VariableOption(selected=True, text="auto", value="$__auto_interval_interval")
    values = [VariableOption(selected=False, text=value, value=value) for value in _INTERVALS]
    return (
        dashboard.IntervalVariable("interval")
        .id("interval")
        .label("Interval")
        .values(",".join(_INTERVALS))
        .auto(True)
        .min_interval(minimum)
        .step_count(AUTO_STEPS)
        .options([automatic, *values])
        .current(automatic)
    )


def _query(name: str, title: str, series: str, label: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .id(name)  # the SDK's default is one id for all, and older Grafanas keep one variable an id
        .label(title)
        .query(f"label_values({series}, {label})")
        .datasource(DataSourceRef(type_val=Source.PROMETHEUS.value, uid=Source.PROMETHEUS.value))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.DONT_HIDE)
    )


def _many(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).all_value(ALL_VALUE).current(everything)
