"""Who may talk to whom in the cluster: the arrows of the architecture, and nothing else.

Each arrow becomes an egress rule where it begins and an ingress rule where it ends; a namespace denies what no rule
allows. The kubelet's probes and ``kubectl port-forward`` come from the node and are no arrows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sightglass.facts.cluster import APPLICATION, NAMESPACES, ClusterTopology, namespace
from sightglass.facts.services import Service
from sightglass.facts.settings import CANARY, SERVICES

ANYWHERE = "anywhere"
"""Every pod and every address, inside the cluster or outside."""
STORAGE = "storage"
KUBE_STATE_METRICS, NODE_EXPORTER = "kube-state-metrics", "node-exporter"
KUBE_STATE_METRICS_PORT, NODE_EXPORTER_PORT = 8080, 9100
API_SERVER = (443, 6443)
KUBELET = 10250
_DNS = 53
_LABEL = "app.kubernetes.io/name"
_PLACE = ClusterTopology()


@dataclass(frozen=True)
class Arrow:
    """One direction of talk; ``source`` and ``target`` are values of ``app.kubernetes.io/name``, or ANYWHERE."""

    source: str
    target: str
    ports: tuple[int, ...]


def _arrow(source: str, target: str, *ports: str) -> Arrow:
    return Arrow(source, target, tuple(_PLACE.port(port) for port in ports))


ARROWS = (
    *(_arrow(ANYWHERE, service.name, service.port_name) for service in SERVICES),
    *(_arrow(service.name, "collector", "collector_otlp_http") for service in SERVICES),
    _arrow(CANARY, "collector", "collector_otlp_http"),
    _arrow(CANARY, "tempo", "tempo_http"),
    _arrow(CANARY, "loki", "loki_http"),
    _arrow(CANARY, "prometheus", "prometheus"),
    _arrow("promtail", "collector", "collector_loki"),
    _arrow("collector", "tempo", "tempo_otlp_grpc"),
    _arrow("collector", "loki", "loki_http"),
    _arrow("collector", "prometheus", "prometheus"),
    Arrow("collector", KUBE_STATE_METRICS, (KUBE_STATE_METRICS_PORT,)),
    _arrow("collector", "promtail", "promtail_http"),
    Arrow("collector", NODE_EXPORTER, (NODE_EXPORTER_PORT,)),
    # Pods' names, events, and what the kubelet knows of its node.
    Arrow("collector", ANYWHERE, (*API_SERVER, KUBELET)),
    Arrow(KUBE_STATE_METRICS, ANYWHERE, API_SERVER),
    _arrow("loki", "minio", "minio"),
    _arrow("tempo", "minio", "minio"),
    _arrow(STORAGE, "minio", "minio"),
    # It scrapes itself at the address that others know.
    _arrow("prometheus", "prometheus", "prometheus"),
    _arrow("prometheus", "alertmanager", "alertmanager"),
    _arrow("prometheus", "loki", "loki_http"),
    _arrow("prometheus", "tempo", "tempo_http"),
    _arrow("prometheus", "minio", "minio"),
    _arrow("alertmanager", "collector", "collector_alerts"),
    _arrow("grafana", "loki", "loki_http"),
    _arrow("grafana", "tempo", "tempo_http"),
    _arrow("grafana", "prometheus", "prometheus"),
    _arrow("grafana", "alertmanager", "alertmanager"),
)


def home(name: str) -> str:
    """Namespace of the pods of that name."""
    return namespace("promtail") if name == NODE_EXPORTER else namespace(name)


def manifest() -> str:
    """All NetworkPolicies as YAML documents."""
    policies = [policy for space in NAMESPACES for policy in (_deny(space), _names(space))]
    for name in sorted({end for arrow in ARROWS for end in (arrow.source, arrow.target)} - {ANYWHERE}):
        policies.append(_policy(name))
    return yaml.safe_dump_all(policies, sort_keys=False)


def for_service(service: Service) -> list[dict[str, Any]]:
    """What a service that is not of this checkout needs: anybody may ask it, and it sends to the Collector."""
    name, collector = service.name, "collector"
    arrow = _arrow(name, collector, "collector_otlp_http")
    own = {
        "podSelector": {"matchLabels": {_LABEL: name}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [_rule("from", ANYWHERE, (service.port,))],
        "egress": [_rule("to", collector, arrow.ports)],
    }
    taken = {
        "podSelector": {"matchLabels": {_LABEL: collector}},
        "policyTypes": ["Ingress"],
        "ingress": [_rule("from", name, arrow.ports)],
    }
    made = [_object(name, APPLICATION, own), _object(f"{collector}-from-{name}", home(collector), taken)]
    for policy in made:
        policy["metadata"]["labels"] = {"app.kubernetes.io/part-of": "sightglass"}
    return made


def to_receivers(ports: Sequence[int]) -> dict[str, Any]:
    """Leave for Alertmanager to notify people, wherever they are."""
    return _more_egress("alertmanager", "receivers", tuple(ports))


def to_api_server(ports: Sequence[int]) -> list[dict[str, Any]]:
    """Leave to reach an API server at ports that :data:`ARROWS` does not have; most plugins look behind its Service."""
    others = tuple(port for port in ports if port not in API_SERVER)
    clients = sorted({arrow.source for arrow in ARROWS if set(API_SERVER) <= set(arrow.ports)}) if others else []
    return [_more_egress(name, "api-server", others) for name in clients]


def _more_egress(name: str, to: str, ports: tuple[int, ...]) -> dict[str, Any]:
    rule = _rule("to", ANYWHERE, ports)
    spec = {"podSelector": {"matchLabels": {_LABEL: name}}, "policyTypes": ["Egress"], "egress": [rule]}
    policy = _object(f"{name}-{to}", home(name), spec)
    policy["metadata"]["labels"] = {"app.kubernetes.io/part-of": "sightglass"}
    return policy


def _object(name: str, space: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": space},
        "spec": spec,
    }


def _deny(space: str) -> dict[str, Any]:
    return _object("deny-by-default", space, {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})


def _names(space: str) -> dict[str, Any]:
    """Name resolution: where a cluster's DNS runs, in a pod or on the node, differs."""
    ports = [{"protocol": protocol, "port": _DNS} for protocol in ("UDP", "TCP")]
    return _object("resolve-names", space, {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]})


def _policy(name: str) -> dict[str, Any]:
    ingress = [_rule("from", arrow.source, arrow.ports) for arrow in ARROWS if arrow.target == name]
    egress = [_rule("to", arrow.target, arrow.ports) for arrow in ARROWS if arrow.source == name]
    types = [kind for kind, rules in (("Ingress", ingress), ("Egress", egress)) if rules]
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {_LABEL: name}}, "policyTypes": types}
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    return _object(name, home(name), spec)


def _rule(direction: str, peer: str, ports: tuple[int, ...]) -> dict[str, Any]:
    rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    if peer != ANYWHERE:
        rule[direction] = [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": home(peer)}},
                "podSelector": {"matchLabels": {_LABEL: peer}},
            }
        ]
    return rule
