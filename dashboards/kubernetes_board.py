"""Kubernetes: do the pods run, and is what they use near what they asked for."""

from dashboards.colours import ORANGE, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.panels import lines, number, rows
from dashboards.queries import or_zero, prom, prom_now
from dashboards.variables import INTERVAL, NAMESPACE, interval, namespace

_CONTAINER = f'{NAMESPACE}, container!="", container!="POD"'
_PODS = f"count(kube_pod_info{{{NAMESPACE}}})"
_RESTARTS = f"kube_pod_container_status_restarts_total{{{NAMESPACE}}}"
_PROCESSOR = f"sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{{{_CONTAINER}}}[{INTERVAL}]))"
_MEMORY = f"sum by (namespace, pod) (container_memory_working_set_bytes{{{_CONTAINER}}})"


def board() -> Board:
    """What is broken first, then the resources."""
    return Board(
        uid=Uid.KUBERNETES,
        title="Kubernetes",
        description="Do the pods run, and is what they use near what they asked for?",
        variables=[namespace(), interval("2m")],
        rows=[_glance(), _pods(), _processor(), _memory(), _storage()],
        span="now-1h",
        one_service=False,
    )


def _asked(kind: str, resource: str) -> str:
    return f'sum by (namespace, pod) (kube_pod_container_resource_{kind}{{{NAMESPACE}, resource="{resource}"}})'


def _glance() -> Row:
    waiting = or_zero(f"sum(kube_pod_container_status_waiting_reason{{{NAMESPACE}}})", _PODS)
    pods = f"sum(kube_pod_status_phase{{{NAMESPACE}, phase=~%s}})"
    available = f"sum(kube_deployment_status_replicas_available{{{NAMESPACE}}})"
    wanted = f"sum(kube_deployment_spec_replicas{{{NAMESPACE}}})"
    ended = f'sum(kube_pod_container_status_last_terminated_reason{{{NAMESPACE}, reason="OOMKilled"}})'
    killed = or_zero(ended, _PODS)
    restarts = f"sum(increase({_RESTARTS}[$__range]))"
    return Row(
        "At a glance",
        [
            number("Pods running", "Pods whose containers run.", prom(pods % '"Running"'), unit="short"),
            number(
                "Pods pending or failed",
                "Pods that do not run: no node has room, an image is missing, or they ended with an error.",
                prom(pods % '"Pending|Failed|Unknown"'),
                unit="short",
                thresholds=[(1, RED)],
            ),
            number(
                "Replicas missing",
                "Replicas that the deployments want and that are not available.",
                prom(f"{wanted} - {available}"),
                unit="short",
                thresholds=[(1, RED)],
            ),
            number(
                "Containers waiting",
                "Containers that wait, most often in a crash loop or for their image.",
                prom(waiting),
                unit="short",
                thresholds=[(1, RED)],
            ),
            number(
                "Restarts",
                "Restarts of containers in the time range.",
                prom_now(restarts),
                unit="short",
                decimals=0,
                thresholds=[(1, YELLOW), (5, RED)],
                spark=False,
            ),
            number(
                "Killed for memory",
                "Containers whose last end was a kill for lack of memory: their limit is too low, or they leak.",
                prom_now(killed),
                unit="short",
                thresholds=[(1, RED)],
                spark=False,
            ),
        ],
    )


def _pods() -> Row:
    return Row(
        "Pods",
        [
            rows(
                "Pods by namespace",
                "Each pod with its restarts, its use of processor and memory, and what it asked for.",
                prom_now(f"sum by (namespace, pod) ({_RESTARTS})", table=True),
                prom_now(_PROCESSOR, table=True),
                prom_now(_asked("requests", "cpu"), table=True),
                prom_now(_MEMORY, table=True),
                prom_now(_asked("requests", "memory"), table=True),
                columns={
                    "namespace": ("Namespace", "string"),
                    "pod": ("Pod", "string"),
                    "Value #A": ("Restarts", "short"),
                    "Value #B": ("Cores used", "short"),
                    "Value #C": ("Cores requested", "short"),
                    "Value #D": ("Memory used", "bytes"),
                    "Value #E": ("Memory requested", "bytes"),
                },
                width=16,
                height=10,
            ),
            lines(
                "Restarts by pod",
                "Restarts over the interval; the mark of an alert or a deployment often stands beside the first.",
                prom(
                    f"sum by (pod) (increase({_RESTARTS}[{INTERVAL}])) > 0",
                    "{{pod}}",
                ),
                unit="short",
                height=10,
                colours={".*": ORANGE},
            ),
        ],
    )


def _processor() -> Row:
    throttled = " / ".join(
        f"sum by (pod) (rate(container_cpu_cfs_{kind}periods_total{{{_CONTAINER}}}[{INTERVAL}]))"
        for kind in ("throttled_", "")
    )
    return Row(
        "Processor",
        [
            lines("Cores used", "Cores that each pod uses.", prom(_PROCESSOR, "{{pod}}"), unit="short"),
            lines(
                "Processor against requests",
                "Use divided by request: far below 1 is reserved for nothing, above 1 is not guaranteed.",
                prom(f"{_PROCESSOR} / {_asked('requests', 'cpu')}", "{{pod}}"),
                unit="percentunit",
                thresholds=[(1, YELLOW)],
            ),
            lines(
                "Throttled",
                "Share of periods in which a pod was held back by its limit: latency that no code explains.",
                prom(throttled, "{{pod}}"),
                unit="percentunit",
                maximum=1,
                thresholds=[(0.25, RED)],
            ),
        ],
    )


def _memory() -> Row:
    return Row(
        "Memory",
        [
            lines("Memory used", "Working set of each pod.", prom(_MEMORY, "{{pod}}"), unit="bytes"),
            lines(
                "Memory against requests",
                "Working set divided by request; above 1 a pod is among the first to be evicted.",
                prom(f"{_MEMORY} / {_asked('requests', 'memory')}", "{{pod}}"),
                unit="percentunit",
                thresholds=[(1, YELLOW)],
            ),
            lines(
                "Memory against limits",
                "Working set divided by limit; at 1 the kernel kills the container.",
                prom(f"{_MEMORY} / {_asked('limits', 'memory')}", "{{pod}}"),
                unit="percentunit",
                thresholds=[(0.9, RED)],
            ),
        ],
    )


def _storage() -> Row:
    volume = "sum by (persistentvolumeclaim) (kubelet_volume_stats_{}_bytes{{{}}})"
    free = " / ".join(volume.format(kind, NAMESPACE) for kind in ("available", "capacity"))
    idle = f'avg by (instance) (rate(node_cpu_seconds_total{{mode="idle"}}[{INTERVAL}]))'
    return Row(
        "Volumes and nodes",
        [
            lines(
                "Volumes: free",
                "Share of each volume that is free; a full one stops its store.",
                prom(free, "{{persistentvolumeclaim}}"),
                unit="percentunit",
                maximum=1,
                colours={},
            ),
            lines(
                "Nodes: processor",
                "Share of each node's processors that is busy.",
                prom(f"1 - {idle}", "{{instance}}"),
                unit="percentunit",
                maximum=1,
                thresholds=[(0.9, RED)],
            ),
            lines(
                "Nodes: memory",
                "Share of each node's memory that is not available to new processes.",
                prom("1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes", "{{instance}}"),
                unit="percentunit",
                maximum=1,
                thresholds=[(0.9, RED)],
            ),
        ],
    )
