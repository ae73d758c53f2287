"""Rows that only a cluster has: each signal carries its pod and node, and the cluster's own signals arrive."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from ml_telemetry import signals
from sightglass.clients.kubectl import Kubectl
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import APPLICATION
from sightglass.facts.errors import UserError
from sightglass.verify.signal_checks import HTTP_COUNT, LOGS, METRICS, SECOND, TRACES, Check, Evidence, fresh_series

EVENTS = "kubernetes-events"
"""Service name of the cluster's events."""
_WANTED = tuple(attribute.name for attribute in signals.RESOURCE_KUBERNETES)


def _origin(found: Mapping[str, object], what: str, service: str) -> str:
    """Require the pod's attributes, and that they are the service's own; names have dots or underscores."""
    values = {name: found.get(name, found.get(name.replace(".", "_"))) for name in _WANTED}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise NotYet(f"{what} lacks {', '.join(missing)}")
    if values["k8s.deployment.name"] != service:
        raise NotYet(f"{what} is said to come from deployment {values['k8s.deployment.name']}")
    return str(values["k8s.pod.name"])


def trace_origin(evidence: Evidence) -> str:
    """Every span of the service says which pod it comes from."""
    for prediction in evidence.made():
        for span in evidence.service_spans(prediction):
            pod = _origin(span.resource, f"span {span.name} of trace {prediction.trace_id}", evidence.service)
    return pod


def log_origin(evidence: Evidence) -> str:
    """So does every line: its own pod, not that of Promtail which brought it."""
    for prediction in evidence.made():
        lines = evidence.log_lines(prediction)
        if not lines:
            raise NotYet(f"loki has no line of trace {prediction.trace_id}")
        pod = _origin(lines[0].labels, f"the line of trace {prediction.trace_id}", evidence.service)
    return pod


def metric_origin(evidence: Evidence) -> str:
    """And every series of the requests that the service counted."""
    found = evidence.prometheus.query(evidence.of_service(HTTP_COUNT))
    fresh = [sample for sample in found if sample.value]
    if not fresh:
        raise NotYet(f"prometheus has no {HTTP_COUNT} of {evidence.service}")
    return [_origin(sample.labels, f"a series of {HTTP_COUNT}", evidence.service) for sample in fresh][-1]


def events(evidence: Evidence) -> str:
    """Loki has an event that this run made about the service, once."""
    name = f"verify.{evidence.began:x}"
    evidence.once("event", lambda: _make_event(Kubectl(evidence.target.kube_context), name, evidence.service))
    start, end = evidence.began - 60 * SECOND, time.time_ns() + 60 * SECOND
    lines = evidence.loki.lines(f'{{service_name="{EVENTS}"}} | k8s_event_name="{name}"', start=start, end=end)
    if len(lines) != 1:
        raise NotYet(f"loki has {len(lines)} lines of event {name}, not 1")
    return f"event {name}"


def _make_event(kubectl: Kubectl, name: str, service: str) -> None:
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": APPLICATION},
        "eventTime": now,
        "type": "Normal",
        "reason": "Verify",
        "action": "Verify",
        "note": "Made by verify, to be found again.",
        "regarding": {"apiVersion": "v1", "kind": "Service", "name": service, "namespace": APPLICATION},
        "reportingController": "sightglass.dev/verify",
        "reportingInstance": "verify",
    }
    try:
        kubectl("create", "--filename=-", text=json.dumps(event))
    except UserError as error:
        raise NotYet(f"no event could be made: {error.message}") from None


CLUSTER = (
    Check("cluster", "traces: pod and node", "tempo", TRACES, trace_origin),
    Check("cluster", "logs: pod and node", "loki", LOGS, log_origin),
    Check("cluster", "metrics: pod and node", "prometheus", METRICS, metric_origin),
    Check(
        *("cluster", "kubelet metrics", "prometheus", ("collector", "prometheus")),
        fresh_series("container_memory_working_set_bytes", '{namespace="sightglass"}'),
        once=True,
    ),
    Check(
        *("cluster", "cluster metrics", "prometheus", ("kube-state-metrics", "collector", "prometheus")),
        fresh_series("kube_pod_info", '{namespace="sightglass"}'),
        once=True,
    ),
    Check(
        *("cluster", "node metrics", "prometheus", ("node-exporter", "collector", "prometheus")),
        fresh_series("node_memory_MemAvailable_bytes", ""),
        once=True,
    ),
    Check("cluster", "events", "loki", ("collector", "loki"), events, once=True),
)
"""Each as one row of ``verify``."""
