"""What is drawn over every panel: deployments and alerts."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery, DataSourceRef

from dashboards.colours import BLUE, RED
from dashboards.names import Source
from dashboards.variables import SERVICE
from ml_telemetry import signals

DEPLOYMENTS = "Deployments"
ALERTS = "Alerts"


class _Prometheus(AnnotationQuery):
    """Adds the fields that are Prometheus' own, which the SDK does not know."""

    title_format: str
    text_format: str
    tag_keys: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON as Grafana's Prometheus data source reads it."""
        own = {"titleFormat": self.title_format, "textFormat": self.text_format, "tagKeys": self.tag_keys}
        return {**super().to_json(), **own, "step": "15s"}


class _Annotation(Builder[AnnotationQuery]):
    def __init__(self, name: str, expression: str, colour: str, title: str, text: str, tags: str) -> None:
        source = DataSourceRef(type_val=Source.PROMETHEUS.value, uid=Source.PROMETHEUS.value)
        self._made = _Prometheus(name=name, datasource=source, icon_color=colour, expr=expression)
        self._made.title_format = title
        self._made.text_format = text
        self._made.tag_keys = tags

    def build(self) -> AnnotationQuery:
        return self._made


def deployments(*, one_service: bool) -> Builder[AnnotationQuery]:
    """Moments at which a worker appeared: a start, a restart, a new version of code or model."""
    matcher = f"{{{SERVICE}}}" if one_service else ""
    labels = ", ".join(
        (signals.SERVICE_NAME.label, signals.SERVICE_VERSION.label, signals.NAME.label, signals.VERSION.label)
    )
    by = f"{labels}, {signals.SERVICE_INSTANCE_ID.label}"
    now = signals.MODEL_INFO.prometheus_name + matcher
    # New is what was not there one step ago, so that each appearance is one point at every zoom.
    expression = f"count by ({labels}) (count by ({by}) ({now}) unless count by ({by}) ({now} offset $__interval))"
    title = "{{service_name}} {{service_version}} started"
    return _Annotation(DEPLOYMENTS, expression, BLUE, title, "model {{name}} {{version}}", "service_name")


def alerts() -> Builder[AnnotationQuery]:
    """Times in which an alert was firing, but for the one that always is."""
    expression = 'max by (alertname, severity, service_name) (ALERTS{alertstate="firing", alertname!="Watchdog"})'
    return _Annotation(ALERTS, expression, RED, "{{alertname}}", "severity {{severity}}", "severity,service_name")
