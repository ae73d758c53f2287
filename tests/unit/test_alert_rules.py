"""Alert rules: promtool judges each one, every change of one is noticed, and what they say leads somewhere."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from click.testing import CliRunner

from ml_telemetry import signals
from sightglass.alerting import __main__ as everything
from sightglass.alerting import files, links, rules, slo
from sightglass.alerting.rule import Group
from sightglass.facts import credentials, settings
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.local import components
from sightglass.runtime import canary
from tests.unit.rules import cases, objectives, promtool
from tests.unit.rules.cases import CASES, GAP_STEP, GAPS, STEP, Case
from tests.unit.rules.promtool import Steps

RULES = REPOSITORY / "helm-config" / "prometheus"
OWN: list[Group] = [group for groups in rules.FILES.values() for group in groups]
SLO: list[Group] = slo.groups(slo.load())
SECONDS, MINUTES, FIVE_MINUTES = Steps(STEP, STEP), Steps(60, 60), Steps(60, 300)
Suite = tuple[Sequence[Group], Sequence[Case], Steps]
SUITES: dict[str, Suite] = {
    "rules": (OWN, CASES, SECONDS),
    "objectives, fast": (SLO, objectives.FAST, MINUTES),
    "objectives, slow": (SLO, objectives.SLOW, FIVE_MINUTES),
}


# --- What the rules do ------------------------------------------------------------------------------------------------


HELD: dict[str, Suite] = {**SUITES, "gaps": (OWN, GAPS, Steps(GAP_STEP, GAP_STEP))}
"""Long cases are too slow to be repeated with every change of a rule."""


@pytest.mark.parametrize("suite", HELD)
def test_every_case_holds(suite: str, programs: Mapping[str, Path], tmp_path: Path) -> None:
    assert promtool.run(programs["promtool"], tmp_path, *HELD[suite]) == ""


SAME = "objectives, slow"
"""Made as those of the fast alerts are, with windows of days that take promtool long."""


@pytest.mark.parametrize(
    "suite", [pytest.param(suite, marks=pytest.mark.long) if suite == SAME else suite for suite in SUITES]
)
def test_no_change_of_a_rule_goes_unnoticed(suite: str, programs: Mapping[str, Path], tmp_path: Path) -> None:
    assert promtool.survivors(programs["promtool"], tmp_path, *SUITES[suite]) == []


def test_a_link_that_says_something_else_is_noticed(programs: Mapping[str, Path], tmp_path: Path) -> None:
    (case, *_) = (c for c in CASES if c.alert == "ServerDown")
    file = tmp_path / "rules.yaml"
    content = promtool.document(file, [case], promtool.only(OWN, case.alert), SECONDS)
    (test,) = content["tests"]
    test["alert_rule_test"][0]["exp_alerts"][0]["exp_annotations"]["traces_url"] += "x"
    file.write_text((RULES / "pipeline.rules.yaml").read_text())
    assert "traces_url" in promtool.complaints(programs["promtool"], tmp_path, {"cases": content})


def kinds(cases: Sequence[Case], groups: Sequence[Group]) -> dict[tuple[str, str], set[str]]:
    """Kinds of cases by name and static labels of the rule."""
    found: dict[tuple[str, str], set[str]] = {}
    for alert in (alert for group in groups for alert in group.alerts):
        about = [c for c in cases if c.alert == alert.name and promtool.rule_of(c, groups) in (alert, None)]
        found[alert.name, json.dumps(dict(alert.labels))] = {case.kind for case in about}
    return found


def test_every_rule_has_its_three_cases() -> None:
    found = kinds([*CASES, *objectives.FAST, *objectives.SLOW], [*OWN, *SLO])
    lacking = {rule: have for rule, have in found.items() if have != {"fires", "below", "clears"}}
    assert lacking == {("Watchdog", "{}"): {"fires"}}
    without = kinds([case for case in CASES if case.kind != "clears"], OWN)
    assert all("clears" not in have for have in without.values())


def recorded(
    programs: Mapping[str, Path], folder: Path, series: Mapping[str, str], expected: Mapping[str, float]
) -> str:
    """What promtool says of the values of expressions after two hours."""
    file = folder / "slo.yaml"
    file.write_text((RULES / "slo.rules.yaml").read_text())
    tests = [
        {"expr": f"round({expr}, 0.0001)", "eval_time": "120m", "exp_samples": [{"labels": "{}", "value": value}]}
        for expr, value in expected.items()
    ]
    known = dict.fromkeys((*cases.OBSERVED, *cases.model()), "1x200")
    given = [{"series": name, "values": values} for name, values in {**known, **series}.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": tests}
    content = {"rule_files": [str(file)], "evaluation_interval": "1m", "group_eval_order": GROUPS, "tests": [test]}
    return promtool.complaints(programs["promtool"], folder, {"cases": content})


GROUPS = [group.name for group in SLO]
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@pytest.mark.parametrize("objective", ["availability", "latency"])
def test_recordings_say_what_happened(objective: str, programs: Mapping[str, Path], tmp_path: Path) -> None:
    selector = f'{{slo="{objective}",service_name="text-classifier"}}'
    budget = objectives.BUDGETS[objective]
    quiet = {f"sum(slo:sli_error:ratio_rate{window}{selector})": 0.0 for window in WINDOWS}
    quiet |= {
        f"sum(slo:objective:ratio{selector})": 1 - budget,
        f"sum(slo:error_budget:ratio{selector})": budget,
        f"sum(slo:period:days{selector})": 30.0,
        f"sum(slo:current_burn_rate:ratio{selector})": 0.0,
        f"sum(slo:period_error_budget_remaining:ratio{selector})": 1.0,
    }
    silent = objectives.traffic(objective, (130, 0, 0))
    assert recorded(programs, tmp_path, {}, quiet) == ""
    assert recorded(programs, tmp_path, silent, quiet) == ""
    burning = {f"sum(slo:sli_error:ratio_rate{window}{selector})": 2 * budget for window in WINDOWS}
    burning |= {
        f"sum(slo:current_burn_rate:ratio{selector})": 2.0,
        f"sum(slo:period_error_budget_remaining:ratio{selector})": -1.0,
    }
    twice = objectives.traffic(objective, (130, 100, 2))
    assert recorded(programs, tmp_path, twice, burning) == ""
    assert "FAILED" in recorded(programs, tmp_path, twice, quiet)


def test_a_restart_loses_no_event(programs: Mapping[str, Path], tmp_path: Path) -> None:
    series = {
        'http_server_request_duration_seconds_count{service_name="text-classifier",service_instance_id="a",'
        'http_route="/predict",http_response_status_code="200"}': "0+10x117 _x20",
        'http_server_request_duration_seconds_count{service_name="text-classifier",service_instance_id="b",'
        'http_route="/predict",http_response_status_code="500"}': "_x119 40 40",
    }
    assert recorded(programs, tmp_path, series, {'sum(slo:sli_bad_events:increase5m{slo="availability"})': 40.0}) == ""


def test_what_was_bad_before_a_gap_is_no_event_after_it(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """The machine slept from minute 30 to minute 118."""
    failed = {
        'http_server_request_duration_seconds_count{service_name="text-classifier",service_instance_id="a",'
        'http_route="/predict",http_response_status_code="500"}': "40x29 _x88 40x5",
    }
    # Nobody said what it serves meanwhile.
    failed |= dict.fromkeys(cases.model(), "1x29 _x88 1x5")
    alive = {'otelcol_process_uptime_total{service_name="otel-collector"}': "7200+60x29 _x88 14280+60x5"}
    bad = 'sum(slo:sli_bad_events:increase5m{slo="availability"})'
    assert recorded(programs, tmp_path, {**failed, **alive}, {bad: 0.0}) == ""
    assert recorded(programs, tmp_path, failed, {bad: 40.0}) == ""


# --- What the rules say -----------------------------------------------------------------------------------------------


def load_rules(folder: Path = RULES) -> list[dict[str, Any]]:
    """Every rule of every rules file."""
    documents = [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.rules.yaml"))]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def problems(rule: Mapping[str, Any]) -> list[str]:
    """What is wrong with what an alert carries."""
    annotations, found = rule["annotations"], []
    if rule["labels"].get("severity") not in ("page", "ticket", "none"):
        found.append("severity")
    if annotations["runbook_url"] != f"{links.RUNBOOKS_URL}/{rule['alert']}.md":
        found.append("runbook_url")
    uid = re.match(re.escape(links.GRAFANA_URL) + r"/d/([a-z-]+)(?:\?|$)", annotations["dashboard_url"])
    if uid is None or uid[1] not in links.DASHBOARDS:
        found.append("dashboard_url")
    address = annotations["traces_url"].replace(links.GRAFANA_URL, "http://grafana", 1)
    (panes,) = parse_qs(urlsplit(address).query).get("panes", ["{}"])
    queries = [query for pane in json.loads(panes).values() for query in pane["queries"]]
    if [query["query"] for query in queries] != [annotations["traces_query"]]:
        found.append("traces_url")
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in load_rules() if "alert" in rule]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_leads_somewhere(rule: dict[str, Any]) -> None:
    assert problems(rule) == []
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == SECTIONS
    broken = {
        "severity": ("labels", "severity", "loud"),
        "runbook_url": ("annotations", "runbook_url", "x"),
        "dashboard_url": ("annotations", "dashboard_url", f"{links.GRAFANA_URL}/d/no-such-board"),
        "traces_url": ("annotations", "traces_query", "{ }"),
    }
    for name, (section, key, value) in broken.items():
        assert problems({**rule, section: {**rule[section], key: value}}) == [name]


RUNBOOKS = REPOSITORY / "docs" / "runbooks"
SECTIONS = ["## What it means", "## First look", "## Likely causes", "## Repair", "## Over when"]


def test_no_runbook_without_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.iterdir()} == {rule["alert"] for rule in alerts()}


def test_link_to_traces_is_what_explore_takes() -> None:
    address = links.traces_url('{ name = "a & b" }').replace(links.GRAFANA_URL, "http://grafana")
    parts = urlsplit(address)
    query = {name: value for name, (value,) in parse_qs(parts.query).items()}
    assert (parts.path, query["schemaVersion"], query["orgId"]) == ("/explore", "1", "1")
    (pane,) = json.loads(query["panes"]).values()
    assert pane == {
        "datasource": "tempo",
        "queries": [
            {
                "refId": "A",
                "datasource": {"type": "tempo", "uid": "tempo"},
                "queryType": "traceql",
                "query": '{ name = "a & b" }',
                "limit": links.TRACES_LIMIT,
                "tableType": "traces",
            }
        ],
        "range": {"from": "now-1h", "to": "now"},
    }


def test_links_keep_templates_and_refuse_unknown_dashboards() -> None:
    template = "{{ $labels.service_name }}"
    address = links.dashboard_url("sightglass-model", {"service": template, "track": "a b"})
    assert address == f"{links.GRAFANA_URL}/d/sightglass-model?var-service={template}&var-track=a%20b"
    assert template in unquote(links.traces_url(f'{{ resource.service.name = "{template}" }}'))
    assert links.traces_url(template).count(template) == 1
    with pytest.raises(ValueError, match="there is no dashboard no-such-board"):
        links.dashboard_url("no-such-board", {})


FOREIGN = {
    *("up", "process_start_time_seconds", "telemetry_spans_total", "telemetry_log_records_total"),
    *("telemetry_refused_total", "promtail_file_bytes_total", "promtail_read_bytes_total"),
    *("otelcol_process_uptime_total", "otelcol_exporter_queue_size", "otelcol_exporter_queue_capacity"),
    *("system_filesystem_usage_bytes", "minio_cluster_capacity_usable_free_bytes"),
    "minio_cluster_capacity_usable_total_bytes",
    *(
        f"otelcol_{counter}_{items}_total"
        for counter in ("receiver_refused", "exporter_send_failed", "exporter_enqueue_failed")
        for items in ("spans", "log_records", "metric_points")
    ),
}
"""Metrics that the servers, the Collector and the host send."""
WORDS = re.compile(r'"[^"]*"|\[[^]]*\]|(?:by|on|group_left) \([^)]*\)|\{|\}|\w+\s*(?=!?=)|\w+\s*\(')


def metrics(expression: str) -> set[str]:
    """Names of the metrics in an expression."""
    rest = re.sub(
        r"\b(?:or|and|unless|on|offset|by|sum|min|max|group|count_values|\d\w*|[\d.]+)\b",
        " ",
        WORDS.sub(" ", expression),
    )
    return set(re.findall(r"[a-z_][\w:]+", rest))


def test_rules_ask_for_metrics_that_exist() -> None:
    contract = {m.prometheus_name + end for m in signals.METRICS for end in ("", "_count", "_bucket")}
    known = FOREIGN | contract | {m.prometheus_name for m in canary.METRICS}
    known |= {rule["record"] for rule in load_rules() if "record" in rule}
    asked = {name for rule in load_rules() for name in metrics(rule["expr"])}
    assert asked - known == set()
    assert asked >= FOREIGN
    assert metrics('sum by (a) (rate(no_such_metric{b="c", d=~"e"}[5m] offset 1h)) > 0.5') == {"no_such_metric"}


def test_prometheus_expands_what_its_environment_gives(
    programs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
    planned = components.build(settings.load(), credentials.Credentials(), programs, None)
    (environment,) = (component.environment for component in planned if component.name == "prometheus")
    text = (RULES / "prometheus.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", text)) == set(environment) - {"GOMEMLIMIT"}
    assert environment["RUNBOOKS_URL"] == RUNBOOKS.as_uri()
    configuration = yaml.safe_load(text)
    (relabel,) = configuration["alerting"]["alert_relabel_configs"]
    assert relabel["action"] == "labeldrop"
    assert {name for name in configuration["global"]["external_labels"] if re.fullmatch(relabel["regex"], name)} == {
        *("grafana_url", "runbooks_url")
    }


# --- Files ------------------------------------------------------------------------------------------------------------


def test_generated_files_are_fresh() -> None:
    assert files.stale(everything.generated()) == []
    assert set(everything.generated()) == {*RULES.glob("*.rules.yaml"), everything.PAGE}


def test_check_finds_a_stale_file_and_writing_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REPOSITORY", tmp_path)
    file = tmp_path / "a.yaml"
    command = files.command(lambda: {file: "new"}, "a.module")
    for old in (None, "old"):
        if old is not None:
            file.write_text(old)
        checked = CliRunner().invoke(command, ["--check"])
        assert checked.exit_code == 1
        assert checked.stderr == "a.yaml: not what the source says; run `python -m a.module`.\n"
    assert CliRunner().invoke(command, []).exit_code == 0
    assert file.read_text() == "new"
    assert CliRunner().invoke(command, ["--check"]).exit_code == 0


def test_modules_are_commands() -> None:
    for module in ("sightglass.alerting", "sightglass.alerting.slo"):
        command = [sys.executable, "-m", module, "--check"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_table_says_every_alert_once() -> None:
    table = [line for line in everything.PAGE.read_text().splitlines() if line.startswith("| [")]
    assert [line.split("[")[1].split("]")[0] for line in table] == [alert.name for alert in everything.alerts()]
    for alert, line in zip(everything.alerts(), table, strict=True):
        assert line.endswith(f"| {alert.severity} | {alert.when} | {alert.hold} |")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seconds: 0.25", "seconds: 0.3", "objectives.latency does not fit: 0.3 s is no bucket bound of"),
        ("ratio: 0.995", "ratio: 1.5", "objectives.availability.ratio does not fit: Input should be less than 1"),
        ("long: 1h", "long: 1x", "alerts.fast.windows.0.long does not fit: '1x' is no duration"),
        ("long: 1h", "long: 5m", "alerts.fast.windows.0 does not fit: the short window 5m must be from 5m to below"),
        ("ratio: 0.995", "ratio: 0.9", r"a burn rate of 14.4 \(fast\) is more than the whole of availability at 0.9"),
        ("period: 30d", "period: 30d\nperiods: 1", "periods does not fit: Extra inputs are not permitted"),
        ("period: 30d", "period: [", "cannot be read"),
    ],
)
def test_objectives_that_cannot_work_are_named(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    shutil.copy(slo.SLO_FILE, file)
    slo.load(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=sentence):
        slo.load(file)


def test_objectives_become_rules(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    text = slo.SLO_FILE.read_text().replace("ratio: 0.995", "ratio: 0.9995").replace("seconds: 0.25", "seconds: 1")
    file.write_text(text.replace("long: 6h, short: 30m, burn_rate: 6", "long: 12h, short: 1h, burn_rate: 5"))
    made = slo.groups(slo.load(file))
    expressions = "\n".join(rule.expr for group in made for rule in group.rules)
    assert "slo:sli_error:ratio_rate1h" in expressions
    assert "> 14.4 * 0.0005" in expressions
    assert 'le="1"' in expressions
    assert "slo:sli_error:ratio_rate12h" in {rule.name for group in made for rule in group.rules}
    assert "slo:sli_error:ratio_rate30m" not in {rule.name for group in made for rule in group.rules}
