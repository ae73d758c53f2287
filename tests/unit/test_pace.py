"""A faster pace changes how long alerting waits, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.alerting import pace
from sightglass.facts import credentials, durations, settings
from sightglass.local import components, up
from sightglass.local.components import HELM_CONFIG, Component

NATIVE = [*components.prometheus_files(), HELM_CONFIG / "alertmanager" / "alertmanager.yaml"]
WAITING = {
    *("for", "keep_firing_for", "interval", "scrape_interval", "scrape_timeout", "evaluation_interval"),
    *("group_wait", "group_interval"),
}

RULES = """
groups:
  - name: test
    interval: 30s
    rules:
      - record: job:up:avg5m
        expr: avg_over_time(up[5m]) + sum_over_time(a:b5m[1h:5m])
      - alert: Test
        expr: increase(x_total[10m]) > 10 and x_total offset 1h > 0 or y_total[1m] or z_total[15s] or up[3m]
        for: 5m
        keep_firing_for: 1h30m
        labels: {for: 5m, interval: 30s}
        annotations: {summary: "in the last 5m", interval: 30s}
"""
PROMETHEUS = """
global: {scrape_interval: 15s, evaluation_interval: 5s, scrape_timeout: 10s, external_labels: {grafana_url: "${URL}"}}
storage: {tsdb: {out_of_order_time_window: 1h}}
scrape_configs: [{job_name: one, scrape_interval: 1m}, {job_name: two}]
"""
ALERTMANAGER = """
route:
  receiver: log
  group_wait: 5s
  group_interval: 15s
  repeat_interval: 4h
  routes: [{receiver: log, group_wait: 1m, repeat_interval: 24h, routes: [{group_interval: 20s}]}]
receivers: [{name: log}]
"""


def load(text: str) -> Any:
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("duration", "expected"), [("15s", 15), ("1h30m", 5400), ("500ms", 0.5), ("1d", 86400), ("0", 0), ("2w", 1209600)]
)
def test_seconds(duration: str, expected: float) -> None:
    assert durations.seconds(duration) == expected


@pytest.mark.parametrize("text", ["", "15", "s", "1.5s", "15 s", "5x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        durations.seconds(text)


def test_nothing_is_brought_below_a_second() -> None:
    assert pace.faster(300, 10) == 30
    assert pace.faster(5, 10) == 1
    assert pace.faster(0.5, 10) == 0.5
    assert pace.faster(0, 10) == 0


def test_rules_wait_less_and_look_back_less_far() -> None:
    (group,) = load(pace.paced(RULES, 10))["groups"]
    (native,) = load(RULES)["groups"]
    record, alert = group["rules"]
    assert group["interval"] == "3000ms"
    assert (alert["for"], alert["keep_firing_for"]) == ("30000ms", "540000ms")
    assert record == {
        "record": "job:up:avg5m",
        "expr": "avg_over_time(up[30000ms]) + sum_over_time(a:b5m[360000ms:30000ms])",
    }
    assert alert["expr"] == (
        "increase(x_total[60000ms]) > 10 and x_total offset 360000ms > 0 or y_total[20000ms] or z_total[15000ms]"
        " or up[3m]"
    )
    for untouched in ("labels", "annotations"):
        assert alert[untouched] == native["rules"][1][untouched]


def test_prometheus_scrapes_and_evaluates_more_often() -> None:
    content = load(pace.paced(PROMETHEUS, 10))
    assert content["global"] == {
        "scrape_interval": "1500ms",
        "evaluation_interval": "1000ms",
        "scrape_timeout": "1000ms",
        "external_labels": {"grafana_url": "${URL}"},
    }
    assert content["scrape_configs"] == [{"job_name": "one", "scrape_interval": "6000ms"}, {"job_name": "two"}]
    assert content["storage"] == load(PROMETHEUS)["storage"]


def test_alertmanager_waits_less_at_every_route_and_repeats_as_before() -> None:
    route = load(pace.paced(ALERTMANAGER, 10))["route"]
    assert (route["group_wait"], route["group_interval"], route["repeat_interval"]) == ("1000ms", "1500ms", "4h")
    (inner,) = route["routes"]
    assert (inner["group_wait"], inner["repeat_interval"]) == ("6000ms", "24h")
    assert inner["routes"][0]["group_interval"] == "2000ms"


def test_pace_one_is_the_text_itself() -> None:
    for file in NATIVE:
        assert pace.paced(file.read_text(), 1) == file.read_text()


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every scalar with the way to it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def without_ranges(expression: str) -> str:
    return re.sub(r"(\[|:|offset )\d+(ms|s|m|h|d)\b", r"\1", expression)


@pytest.mark.parametrize("file", NATIVE, ids=lambda file: file.name)
def test_native_files_differ_in_waiting_times_only(file: Path) -> None:
    native, faster = dict(leaves(load(file.read_text()))), dict(leaves(load(pace.paced(file.read_text(), 10))))
    assert native.keys() == faster.keys()
    changed = {path for path in native if native[path] != faster[path]}
    assert {path[-1] for path in changed} <= {*WAITING, "expr"}
    for path in (path for path in changed if path[-1] == "expr"):
        assert without_ranges(native[path]) == without_ranges(faster[path])
    outside = ("labels", "annotations")
    waiting = {path for path in native if path[-1] in WAITING and not set(outside) & set(path)}
    for path in waiting:
        before, after = durations.seconds(str(native[path])), durations.seconds(str(faster[path]))
        assert after == pytest.approx(min(before, max(1, before / 10)), abs=0.001)


def planned(monkeypatch: pytest.MonkeyPatch, folder: Path, value: str) -> dict[str, Component]:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(folder))
    for name in (name for name in settings.Settings.model_fields if name.startswith("alert_")):
        monkeypatch.delenv(f"{settings.PREFIX}{name.upper()}", raising=False)
    monkeypatch.setenv("SIGHTGLASS_ALERT_PACE", value)
    made = components.build(settings.load(), credentials.Credentials(), up.PLANNED_PROGRAMS, None)
    return {component.name: component for component in made}


def test_stack_at_pace_one_runs_the_native_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = planned(monkeypatch, tmp_path, "1")
    folder = tmp_path / "run" / "prometheus"
    for name in ("prometheus", "alertmanager"):
        prepare = plan[name].prepare
        assert prepare
        prepare()
    for file in components.prometheus_files():
        assert (folder / file.name).resolve() == file
    alertmanager = tmp_path / "run" / "alertmanager" / "alertmanager.yaml"
    assert alertmanager.read_bytes() == NATIVE[-1].read_bytes()
    assert plan["canary"].environment["CANARY_INTERVAL_SECONDS"] == "15"


def test_stack_at_another_pace_runs_changed_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calm = planned(monkeypatch, tmp_path, "1")
    plan = planned(monkeypatch, tmp_path, "10")
    folder = tmp_path / "run" / "prometheus"
    for name in ("prometheus", "alertmanager"):
        prepare = plan[name].prepare
        assert prepare
        prepare()
        assert plan[name].digest() != calm[name].digest()
    for file in components.prometheus_files():
        assert not (folder / file.name).is_symlink()
        assert (folder / file.name).read_text() == pace.paced(file.read_text(), 10)
    assert load((folder / "prometheus.yaml").read_text())["global"]["scrape_interval"] == "1500ms"
    assert (
        load((tmp_path / "run" / "alertmanager" / "alertmanager.yaml").read_text())["route"]["group_wait"] == "1000ms"
    )
    assert plan["canary"].environment["CANARY_INTERVAL_SECONDS"] == "1.5"
    assert plan["canary"].environment["CANARY_TIMEOUT_SECONDS"] == "12"
