"""Where everything is in a cluster: namespaces, addresses and folders, the same for every cluster."""

from dataclasses import dataclass

from sightglass.facts.settings import CANARY, HOST, PORTS, SERVICES

APPLICATION = "sightglass"
"""Namespace of the observed service and the canary."""
OBSERVABILITY = "sightglass-observability"
"""Namespace of the servers and the Collector."""
NODE = "sightglass-node"
"""Namespace of what runs on every node and reads its files."""
NAMESPACES = (APPLICATION, OBSERVABILITY, NODE)

_ELSEWHERE = {**{service.name: APPLICATION for service in SERVICES}, CANARY: APPLICATION, "promtail": NODE}
_PORTS = {port.name: port for port in PORTS}
_DATA = {
    "loki": "/var/loki",
    "tempo": "/var/tempo",
    "collector": "/var/lib/otelcol",
    # On the node, so that the next pod goes on where this one ended.
    "promtail": "/run/promtail",
}


def namespace(component: str) -> str:
    """The namespace of a component."""
    return _ELSEWHERE.get(component, OBSERVABILITY)


@dataclass(frozen=True)
class ClusterTopology:
    """Kubernetes: see :class:`sightglass.facts.environments.Topology`."""

    environment: str = "kubernetes"
    grafana_url: str = f"http://{HOST}:{_PORTS['grafana'].default}"
    """As ``make connect`` opens it; set it to the address of an ingress where there is one."""
    runbooks_url: str = "docs/runbooks"
    listen: str = "0.0.0.0"  # noqa: S104 - a pod's own; NetworkPolicies say who may come
    # All parts of a program are in one pod.
    advertise: str = HOST
    platform_processor: str = "k8s_attributes"
    many_nodes: bool = True
    dashboards: str = "/var/lib/grafana/dashboards"

    def port(self, name: str) -> int:
        """The default: nothing else listens in a pod."""
        port = _PORTS[name]
        return port.in_cluster or port.default

    def address(self, port: str) -> str:
        """The port's Service."""
        component = _PORTS[port].component
        return f"{component}.{namespace(component)}.svc:{self.port(port)}"

    def data(self, component: str) -> str:
        """Where the component's volume is mounted."""
        return _DATA[component]

    def log_glob(self) -> str:
        """The kubelet's files of the services' pods; no server's errors add to the logs that it has to take."""
        return f"/var/log/pods/{APPLICATION}_*/*/*.log"
