"""NetworkPolicies allow exactly the arrows of the architecture: judged by an evaluator of the policies themselves."""

import copy
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.facts.settings import CANARY, REPOSITORY, SERVICES
from sightglass.kubernetes import policies
from sightglass.kubernetes.policies import ANYWHERE, ARROWS, home

Policy = dict[str, Any]
PODS = sorted({end for arrow in ARROWS for end in (arrow.source, arrow.target)} - {ANYWHERE})
OUTSIDE = "outside"
"""Stands for any pod or address that is not ours."""
PORTS = sorted({port for arrow in ARROWS for port in arrow.ports})
HELM_CONFIG = REPOSITORY / "helm-config"


@pytest.fixture
def loaded() -> list[Policy]:
    return list(yaml.safe_load_all(policies.manifest()))


def allowed(found: list[Policy], source: str, target: str, port: int) -> bool:
    """Whether a connection passes, as a network plugin decides: the sender's egress and the receiver's ingress."""
    return _passes(found, "Egress", source, target, port) and _passes(found, "Ingress", target, source, port)


def _passes(found: list[Policy], direction: str, pod: str, peer: str, port: int) -> bool:
    if pod == OUTSIDE:
        return True
    mine = [p for p in found if _selects(p, pod) and direction in p["spec"]["policyTypes"]]
    if not mine:
        return True
    rules = [rule for policy in mine for rule in policy["spec"].get(direction.lower(), [])]
    peers = "to" if direction == "Egress" else "from"
    return any(_port(rule, port) and _peer(rule.get(peers), peer) for rule in rules)


def _selects(policy: Policy, pod: str) -> bool:
    labels = policy["spec"]["podSelector"].get("matchLabels", {})
    return bool(policy["metadata"]["namespace"] == home(pod) and labels.get("app.kubernetes.io/name", pod) == pod)


def _port(rule: dict[str, Any], port: int) -> bool:
    return any(entry["port"] == port and entry["protocol"] == "TCP" for entry in rule["ports"])


def _peer(peers: list[dict[str, Any]] | None, pod: str) -> bool:
    if peers is None:
        return True
    return pod != OUTSIDE and any(
        entry["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == home(pod)
        and entry["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == pod
        for entry in peers
    )


def expected(source: str, target: str, port: int) -> bool:
    """Whether an arrow says so; what goes to or comes from anywhere still needs the other end's leave."""
    leaves = source == OUTSIDE or any(
        arrow.source in (source, ANYWHERE) and arrow.target in (target, ANYWHERE) and port in arrow.ports
        for arrow in ARROWS
        if arrow.source != ANYWHERE
    )
    arrives = target == OUTSIDE or any(
        arrow.target == target and arrow.source in (source, ANYWHERE) and port in arrow.ports for arrow in ARROWS
    )
    return leaves and arrives


def wrong(found: list[Policy]) -> set[tuple[str, str]]:
    """Pairs between which more or less is allowed than the arrows say."""
    ends = [*PODS, OUTSIDE]
    return {
        (source, target)
        for source, target, port in product(ends, ends, PORTS)
        if allowed(found, source, target, port) != expected(source, target, port)
    }


def test_exactly_the_arrows_are_allowed(loaded: list[Policy]) -> None:
    assert wrong(loaded) == set()
    assert allowed(loaded, "loki", "minio", 9000)
    assert not allowed(loaded, "text-classifier", "minio", 9000)
    assert not allowed(loaded, OUTSIDE, "prometheus", 9090)
    assert allowed(loaded, OUTSIDE, "text-classifier", 8000)
    assert not allowed(loaded, "text-classifier", OUTSIDE, 443)


def test_without_the_denial_more_is_allowed(loaded: list[Policy]) -> None:
    loose = [policy for policy in loaded if policy["metadata"]["name"] != "deny-by-default"]
    assert ("text-classifier", OUTSIDE) not in wrong(loaded)
    # What has a policy of its own in one direction only is open in the other.
    assert wrong(loose)


@pytest.mark.parametrize(("name", "direction"), [("minio", "ingress"), ("collector", "egress")])
def test_a_missing_rule_is_seen(loaded: list[Policy], name: str, direction: str) -> None:
    cut = copy.deepcopy(loaded)
    next(policy for policy in cut if policy["metadata"]["name"] == name)["spec"][direction].pop(0)
    assert wrong(cut)


def test_receivers_of_people_may_be_reached_where_some_are_named(loaded: list[Policy]) -> None:
    assert not allowed(loaded, "alertmanager", OUTSIDE, 587)
    more = [*loaded, policies.to_receivers([587])]
    assert allowed(more, "alertmanager", OUTSIDE, 587)
    assert not allowed(more, "alertmanager", OUTSIDE, 25)
    assert allowed(more, "alertmanager", "collector", 3501)
    assert not allowed(more, "loki", OUTSIDE, 587)


def test_an_api_server_at_another_port_may_be_reached_by_its_clients_alone(loaded: list[Policy]) -> None:
    assert policies.to_api_server([443, 6443]) == []
    assert not allowed(loaded, "collector", OUTSIDE, 16443)
    more = [*loaded, *policies.to_api_server([6443, 16443])]
    for name in ("collector", "kube-state-metrics"):
        assert allowed(more, name, OUTSIDE, 16443)
    assert not allowed(more, "loki", OUTSIDE, 16443)
    assert not allowed(more, "collector", OUTSIDE, 8443)


def addresses() -> dict[str, set[tuple[str, int]]]:
    """Every Service and port that a program is told of, by the program."""
    files: dict[str, list[Path]] = {
        name: [HELM_CONFIG / name / "kubernetes.env"] for name in ("loki", "tempo", "promtail", "grafana")
    }
    files["prometheus"] = sorted((HELM_CONFIG / "prometheus").glob("*.targets.yaml"))
    files["collector"] = [REPOSITORY / "collector-config" / "kubernetes.env"]
    for name in (*(service.name for service in SERVICES), CANARY):
        files[name] = [REPOSITORY / "manifests" / "application" / f"{name}.env"]
    files["storage"] = [REPOSITORY / "manifests" / "storage" / "storage.env"]
    pattern = re.compile(r"([a-z-]+)\.[a-z-]+\.svc:(\d+)")
    return {
        name: {(host, int(port)) for file in paths for host, port in pattern.findall(file.read_text())}
        for name, paths in files.items()
    }


def test_every_address_that_a_program_is_told_can_be_reached(loaded: list[Policy]) -> None:
    told = {name: found for name, found in addresses().items() if found}
    assert set(told) == set(addresses())
    refused = {
        (name, host) for name, found in told.items() for host, port in found if not allowed(loaded, name, host, port)
    }
    assert refused == set()


def test_every_arrow_between_ours_is_told_to_its_source() -> None:
    told = addresses()
    for arrow in ARROWS:
        # Some pods are found by the API, not by an address.
        by_pod = (policies.NODE_EXPORTER, policies.KUBE_STATE_METRICS, "promtail")
        if ANYWHERE not in (arrow.source, arrow.target) and arrow.target not in by_pod:
            if arrow.source == "alertmanager":
                continue  # its address is in a file of its Secret
            assert any((arrow.target, port) in told[arrow.source] for port in arrow.ports), arrow
