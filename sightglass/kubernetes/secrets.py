"""Secrets of a cluster: generated once, kept in the cluster itself, and handed to each program by its own Secret."""

import base64
from typing import Any

from sightglass.clients.kubectl import Kubectl
from sightglass.facts import credentials, environments
from sightglass.facts.cluster import APPLICATION, OBSERVABILITY, ClusterTopology
from sightglass.facts.credentials import Credentials
from sightglass.facts.errors import UserError
from sightglass.facts.settings import load as load_settings
from sightglass.kubernetes import workloads
from sightglass.notify import receivers
from sightglass.runtime import storage

KEPT = "sightglass-credentials"
"""Secret that holds all of them; every other is made of it."""
KEPT_KEY = "credentials.json"
TOKEN = "prometheus-minio"  # noqa: S105 - a name
TOKEN_KEY = "minio.token"  # noqa: S105 - a name


def read(kubectl: Kubectl) -> Credentials | None:
    """The secrets of the deployment; None where there is none yet."""
    text = _value(kubectl, KEPT, KEPT_KEY)
    if text is None:
        return None
    try:
        return credentials.from_json(text)
    except ValueError:
        raise UserError(
            f"Secret {KEPT} in namespace {OBSERVABILITY} is damaged: restore it, or `make undeploy` forgets all data."
        ) from None


def _value(kubectl: Kubectl, name: str, key: str) -> str | None:
    found = kubectl.get("secret", name, f"--namespace={OBSERVABILITY}")
    data = found[0].get("data", {}) if found else {}
    return base64.b64decode(data[key]).decode() if key in data else None


def objects(kubectl: Kubectl, known: Credentials, topology: ClusterTopology) -> list[dict[str, Any]]:
    """Every Secret of the deployment; a token that was made before stays, for each one made is another."""
    token = _value(kubectl, TOKEN, TOKEN_KEY) or storage.metrics_token(known.metrics)
    return [_secret(name, data) for name, data in contents(known, topology, token).items()]


def contents(known: Credentials, topology: ClusterTopology, token: str) -> dict[str, dict[str, str]]:
    """Keys and values of every Secret by its name."""
    channels = receivers.secret_files(load_settings(), environments.url(topology, "collector_alerts"))
    return {
        KEPT: {KEPT_KEY: credentials.to_json(known)},
        "minio-root": {"rootUser": known.root.access_key, "rootPassword": known.root.secret_key},
        "loki-s3": environments.s3_keys(known.loki),
        "tempo-s3": environments.s3_keys(known.tempo),
        TOKEN: {TOKEN_KEY: token},
        "alertmanager-channels": channels,
        "grafana-admin": {"admin-user": "admin", "admin-password": known.grafana_admin_password},
        workloads.KEYS: environments.service_keys(known),
    }


def namespace(name: str) -> str:
    """Where the program is that a Secret is for."""
    return APPLICATION if name == workloads.KEYS else OBSERVABILITY


def _secret(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace(name),
            "labels": {"app.kubernetes.io/part-of": "sightglass"},
        },
        # Not stringData: an applied object with it is never the same as the one that is kept.
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
