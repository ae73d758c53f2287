"""The objects of one observed service in a cluster, as its entry in the table of services asks for them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from sightglass.facts.cluster import APPLICATION
from sightglass.facts.services import Service

IMAGE = "sightglass/services"
"""Name of our own image in the manifests: services, canary and Jobs run from it."""
KEYS = "service-keys"
"""Secret with the keys that every service is given."""
USER = 10001
_SIZES: Mapping[str, dict[str, Any]] = {
    "bentoml": {"requests": {"cpu": "200m", "memory": "320Mi"}, "limits": {"memory": "768Mi"}},
    "asgi": {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
}
OBSERVED = {"app.kubernetes.io/component": "observed-service"}
"""Label of what every observed service has, so that a patch can change all."""
Object = dict[str, Any]


def objects(service: Service) -> list[Object]:
    """Account, Deployment, Service and disruption budget; the environment is a ConfigMap beside them."""
    labels = {"app.kubernetes.io/name": service.name}
    meta = {"name": service.name, "namespace": APPLICATION}
    instance = service.instances[0]
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {**meta},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**meta, "labels": {**labels}},
            "spec": {
                "replicas": instance.replicas,
                "revisionHistoryLimit": 2,
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": {**labels}},
                "template": {"metadata": {"labels": {**labels}}, "spec": _pod(service)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "labels": {**labels}},
            "spec": {
                "selector": {**labels},
                "ports": [{"name": "http", "port": service.port, "targetPort": "http"}],
            },
        },
        # One replica must not hold up the drain of a node.
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {**meta},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {**labels}}},
        },
    ]


def environment_name(service: str) -> str:
    """Name of the ConfigMap of a service's environment."""
    return f"{service}-env"


def environment(service: Service, variables: Mapping[str, str]) -> Object:
    """The ConfigMap of a service that is not of this checkout; kustomize makes those of the others."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": environment_name(service.name),
            "namespace": APPLICATION,
            "labels": {"app.kubernetes.io/part-of": "sightglass", **OBSERVED},
        },
        "data": dict(variables),
    }


def _pod(service: Service) -> Object:
    variables = environment_name(service.name)
    container: Object = {
        # Promtail takes the service's name from the container's.
        "name": service.name,
        "image": service.image or IMAGE,
        "imagePullPolicy": "IfNotPresent",
        # Somebody's own image says itself what it runs.
        **({} if service.image else {"command": ["python", *service.arguments("0.0.0.0", service.port)]}),  # noqa: S104
        "envFrom": [{"configMapRef": {"name": variables}}, {"secretRef": {"name": KEYS}}],
        "env": [
            # The Collector finds the pod by its uid, also what is sent before its address is known.
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {
                "name": "DEPLOYMENT_ATTRIBUTES",
                "valueFrom": {"configMapKeyRef": {"name": variables, "key": "OTEL_RESOURCE_ATTRIBUTES"}},
            },
            {"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "$(DEPLOYMENT_ATTRIBUTES),k8s.pod.uid=$(POD_UID)"},
        ],
        "ports": [{"name": "http", "containerPort": service.port}],
        "startupProbe": _probe("/readyz", periodSeconds=1, failureThreshold=90),
        "readinessProbe": _probe("/readyz", periodSeconds=5),
        "livenessProbe": _probe("/livez", periodSeconds=10, timeoutSeconds=5, failureThreshold=6),
        # Requests still come until every node has heard that this pod ends.
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
        "resources": _SIZES[service.kind],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
    }
    return {
        "serviceAccountName": service.name,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _probe(path: str, **options: int) -> Object:
    return {"httpGet": {"path": path, "port": "http"}, **options}


class _Dumper(yaml.SafeDumper):
    """Writes what stands twice twice: anchors are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - its signature
        return True


def text(found: Iterable[Object]) -> str:
    """Objects as YAML documents, without their namespace: kustomize sets it."""
    plain = [
        {**one, "metadata": {key: value for key, value in one["metadata"].items() if key != "namespace"}}
        for one in found
    ]
    return yaml.dump_all(plain, Dumper=_Dumper, sort_keys=False)


def kustomization(names: Sequence[str], others: Sequence[str]) -> str:
    """kustomize's file for these services, and the other programs of their namespace."""
    every = [*names, *others]
    kept = {"disableNameSuffixHash": True}
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": APPLICATION,
        "resources": [f"{name}.yaml" for name in every],
        "configMapGenerator": [
            {
                "name": environment_name(name),
                "envs": [f"{name}.env"],
                "options": {**kept, "labels": OBSERVED} if name in names else kept,
            }
            for name in every
        ],
    }
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def is_of(found: Object, service: str) -> bool:
    """Whether an object is of that service."""
    meta = found["metadata"]
    mine = {service, environment_name(service)}
    return meta.get("namespace") == APPLICATION and meta["name"] in mine
