"""The dashboards' JSON: fresh, whole, alike, and about signals that exist."""

import copy
import itertools
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dashboards import __main__ as command
from dashboards import catalogue, may_be_empty, sent_queries
from dashboards.fill_variables import Filling
from dashboards.layout import Board, Row
from dashboards.may_be_empty import MayBeEmpty
from dashboards.names import TAG, Source, Uid
from dashboards.panels import lines, number
from dashboards.queries import prom
from dashboards.sent_queries import Kind, Question
from load_testing import telemetry
from ml_telemetry import signals
from ml_telemetry.declaration import Declaration
from sightglass.facts import credentials, settings
from sightglass.facts.settings import REPOSITORY
from sightglass.local import components
from sightglass.local.grafana import GrafanaHome
from tests.prices import DECLARATION as PRICES
from text_classifier.declaration import DECLARATION as TEXT_CLASSIFIER

PROVISIONING = REPOSITORY / "helm-config" / "grafana" / "provisioning"
BOARDS = {board["uid"]: board for board in catalogue.load()}
COMMON_VARIABLES = {"service", "version", "track", "interval"}
NATIVE = signals.Instrument.EXPONENTIAL
Json = dict[str, Any]
Break = Callable[[Json], object]


def panels(board: Json) -> list[Json]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def first(board: Json, kind: str = "timeseries") -> Json:
    return next(panel for panel in panels(board) if panel["type"] == kind)


# --- Freshness --------------------------------------------------------------------------------------------------------


def test_committed_json_is_what_the_code_makes() -> None:
    assert catalogue.stale() == []
    assert CliRunner().invoke(command.main, ["--check"]).exit_code == 0


def test_json_is_the_same_each_time() -> None:
    assert catalogue.render() == catalogue.render()


@pytest.mark.parametrize("change", ["changed", "missing", "left over"])
def test_stale_file_is_named_and_written_anew(tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(catalogue.FOLDER, tmp_path / "json"))
    file = folder / f"{Uid.MODEL}.json"
    match change:
        case "changed":
            file.write_text(file.read_text().replace("Predictions by class", "Predictions"))
        case "missing":
            file.unlink()
        case "left over":
            file = folder / "old.json"
            file.write_text("{}")
    checked = CliRunner().invoke(command.main, ["--check", "--folder", str(folder)])
    assert checked.exit_code == 1
    assert [line.split(" is ")[0] for line in checked.stderr.splitlines()] == [f"json/{file.name}"]
    assert CliRunner().invoke(command.main, ["--folder", str(folder)]).exit_code == 0
    assert catalogue.stale(folder) == []


# --- What every dashboard has -----------------------------------------------------------------------------------------


def flaws(board: Json) -> Iterator[str]:
    """What a person would stumble over."""
    links = [(link["tags"], link["keepTime"], link["includeVars"]) for link in board["links"]]
    if links != [([TAG], True, True)] or TAG not in board["tags"]:
        yield "links"
    if [a["name"] for a in board["annotations"]["list"] if a["enable"]] != ["Deployments", "Alerts"]:
        yield "annotations"
    if any('alertname!="Watchdog"' not in a["expr"] for a in board["annotations"]["list"] if a["name"] == "Alerts"):
        yield "watchdog"
    ids = [panel["id"] for panel in board["panels"]]
    if len(set(ids)) < len(ids) or 0 in ids:
        yield "ids"
    if any(variable["id"] != variable["name"] for variable in board["templating"]["list"]):
        yield "variable"
    for panel in panels(board):
        yield from (f"{flaw} of {panel['title']}" for flaw in panel_flaws(panel))
    for one, other in itertools.combinations((panel["gridPos"] for panel in board["panels"]), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        if not (apart_x or apart_y):
            yield f"overlap at {one} and {other}"


def panel_flaws(panel: Json) -> Iterator[str]:
    text = panel.get("description", "")
    if not re.fullmatch(r"[A-Z0-9][^\n]{20,}\.", text):
        yield "description"
    defaults = panel["fieldConfig"]["defaults"]
    if not defaults.get("unit"):
        yield "unit"
    if not defaults.get("thresholds", {}).get("steps"):
        yield "thresholds"
    if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
        yield "width"
    letters = [target["refId"] for target in panel["targets"]]
    if not letters or letters != [chr(ord("A") + place) for place in range(len(letters))]:
        yield "letters"
    if panel["datasource"]["uid"] not in list(Source) or any(
        target["datasource"] != panel["datasource"] for target in panel["targets"]
    ):
        yield "data source"


@pytest.mark.parametrize("uid", Uid)
def test_dashboard_has_no_flaw(uid: Uid) -> None:
    assert list(flaws(BOARDS[uid])) == []


FLAWS: dict[str, Break] = {
    "links": lambda board: board["links"][0].update(keepTime=False),
    "annotations": lambda board: board["annotations"]["list"].pop(),
    "watchdog": lambda board: board["annotations"]["list"][1].update(expr="ALERTS"),
    "ids": lambda board: board["panels"][1].update(id=board["panels"][2]["id"]),
    "variable": lambda board: board["templating"]["list"][0].update(id=board["templating"]["list"][1]["id"]),
    "overlap": lambda board: board["panels"][2]["gridPos"].update(x=0),
    "description": lambda board: first(board).update(description="Requests"),
    "unit": lambda board: first(board)["fieldConfig"]["defaults"].pop("unit"),
    "thresholds": lambda board: first(board)["fieldConfig"]["defaults"].pop("thresholds"),
    "width": lambda board: first(board)["gridPos"].update(x=23),
    "letters": lambda board: first(board)["targets"][0].update(refId="B"),
    "data source": lambda board: first(board)["targets"][0].update(datasource={"type": "loki", "uid": "loki"}),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_is_seen(flaw: str) -> None:
    broken = copy.deepcopy(BOARDS[Uid.SERVICE])
    FLAWS[flaw](broken)
    assert any(found.startswith(flaw) for found in flaws(broken))


def test_panels_that_leave_a_gap_are_refused() -> None:
    lonely = Row("Row", [number("Title", "A sentence.", prom("up"), unit="short", width=6)])
    with pytest.raises(ValueError, match="the last line of Row is not full"):
        Board(Uid.SLO, "Title", "Text.", [], [lonely]).build()


def test_panels_of_different_heights_do_not_share_a_line() -> None:
    high = lines("High", "A sentence.", prom("up"), unit="short", width=18)
    low = number("Low", "A sentence.", prom("up"), unit="short", width=6)
    with pytest.raises(ValueError, match="Low does not fit into its line"):
        Board(Uid.SLO, "Title", "Text.", [], [Row("Row", [high, low])]).build()


def test_uids_are_those_that_alerts_link_to() -> None:
    assert list(BOARDS) == sorted(Uid)
    assert set(Uid) == {
        f"sightglass-{name}" for name in ("service", "model", "pipeline", "slo", "load-test", "kubernetes")
    }


def test_data_sources_are_provisioned() -> None:
    text = (PROVISIONING / "datasources" / "datasources.yaml").read_text()
    there = {(source["uid"], source["type"]) for source in yaml.safe_load(text)["datasources"]}
    assert {(source.value, source.value) for source in Source} <= there


def test_dashboards_are_provisioned_from_the_environments_folder_and_cannot_be_changed_in_the_page() -> None:
    text = (PROVISIONING / "dashboards" / "dashboards.yaml").read_text()
    (provider,) = yaml.safe_load(text)["providers"]
    assert provider["name"] == "sightglass"
    assert provider["options"] == {"path": "$DASHBOARDS_DIR", "foldersFromFilesStructure": False}
    assert (provider["allowUiUpdates"], provider["disableDeletion"]) == (False, True)


def test_stack_gives_grafana_the_folder_and_restarts_it_when_a_dashboard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
    programs = defaultdict[str, Path](lambda: Path("no-program"))
    home = GrafanaHome(tmp_path, ("grafana",))
    *_, grafana = components.build(settings.load(), credentials.Credentials(), programs, home)
    assert grafana.name == "grafana"
    assert grafana.environment["DASHBOARDS_DIR"] == str(catalogue.FOLDER)
    assert {catalogue.FOLDER / f"{uid}.json" for uid in Uid} <= set(grafana.files)


# --- Queries ----------------------------------------------------------------------------------------------------------

QUESTIONS = [(board, question) for board in BOARDS.values() for question in sent_queries.of(board)]
OWN = re.compile(r"\b(?:ml|http_server|locust)_[a-z_]+")
_OWN_METRICS = {
    f"{metric.prometheus_name}{suffix}"
    for metric in (*signals.METRICS, *telemetry.METRICS)
    for suffix in (("_bucket", "_sum", "_count") if metric.instrument is signals.Instrument.HISTOGRAM else ("",))
}


def foreign(question: Question) -> set[str]:
    """Names that look like ours and are not in the contract."""
    return set(OWN.findall(question.text)) - _OWN_METRICS if question.source is Source.PROMETHEUS else set()


def test_queries_name_only_metrics_of_the_contract() -> None:
    assert {question.name: names for _, question in QUESTIONS if (names := foreign(question))} == {}


def test_metric_that_is_not_in_the_contract_is_seen() -> None:
    asked = Question(Uid.MODEL, "Panel", "A", Source.PROMETHEUS, Kind.RANGE, "rate(ml_prediction_total[1m])")
    assert foreign(asked) == {"ml_prediction_total"}


def test_no_zero_out_of_nothing() -> None:
    """A source that died must not look like one that counts zero."""
    assert [question.name for _, question in QUESTIONS if "vector(0)" in question.text] == []


def test_every_variable_of_every_query_is_set() -> None:
    for board, question in QUESTIONS:
        assert "$" not in Filling.defaults(board).fill(question)


def test_every_variable_is_used_and_has_its_common_name() -> None:
    for uid, board in BOARDS.items():
        asked = " ".join(question.text for question in sent_queries.of(board))
        names = {variable["name"] for variable in board["templating"]["list"]}
        assert {name for name in names if f"${name}" not in asked} == set(), uid
        assert names <= COMMON_VARIABLES | {"synthetic", "route", "feature", "slow", "namespace"}, uid
    assert {v["name"] for v in BOARDS[Uid.MODEL]["templating"]["list"]} == COMMON_VARIABLES | {
        *("synthetic", "route", "feature")
    }


HISTOGRAM = re.compile(
    "|".join(
        (
            r"\b(?:ml|http)_\w+_bucket",
            *(
                rf"\bhistogram_quantile\(.*\b{one.prometheus_name}\b"
                for one in signals.METRICS
                if one.instrument == NATIVE
            ),
        )
    )
)


def without_exemplars(board: Json) -> list[str]:
    """Panels of the service's histograms with quantiles or buckets on which no request can be opened."""
    return [
        panel["title"]
        for panel in panels(board)
        if panel["type"] in ("timeseries", "heatmap")
        for bucketed in ([t for t in panel["targets"] if HISTOGRAM.search(t.get("expr", ""))],)
        if bucketed and not any(target["exemplar"] for target in bucketed)
    ]


@pytest.mark.parametrize("uid", Uid)
def test_histograms_of_the_service_show_exemplars(uid: Uid) -> None:
    assert without_exemplars(BOARDS[uid]) == []


def test_histogram_without_exemplars_is_seen() -> None:
    broken = copy.deepcopy(BOARDS[Uid.SERVICE])
    panel = next(panel for panel in panels(broken) if panel["type"] == "heatmap")
    panel["targets"][0]["exemplar"] = False
    assert without_exemplars(broken) == [panel["title"]]


def test_questions_are_those_of_panels_exemplars_annotations_and_variables() -> None:
    asked = list(sent_queries.of(BOARDS[Uid.SERVICE]))
    targets = [target for panel in panels(BOARDS[Uid.SERVICE]) for target in panel["targets"]]
    exemplars = [target for target in targets if target.get("exemplar")]
    kinds = [question.kind for question in asked]
    assert len(asked) == len(targets) + len(exemplars) + 2 + 5
    assert kinds.count(Kind.EXEMPLARS) == len(exemplars) > 1
    assert kinds.count(Kind.SEARCH) == 3
    assert kinds.count(Kind.LOGS) == 1
    labels = [question.label for question in asked if question.kind is Kind.VALUES]
    assert labels == ["service_name", "service_version", "track", "synthetic", "http_route"]


# --- Filling ----------------------------------------------------------------------------------------------------------


def asked(text: str, minimum_step: float = 0.0) -> Question:
    return Question("board", "panel", "A", Source.PROMETHEUS, Kind.RANGE, text, minimum_step=minimum_step)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ('up{service_name="$service"}', 'up{service_name="text-classifier"}'),
        ("up{v=~'${version}'}", "up{v=~'.*'}"),
        ("rate(up[$interval])", "rate(up[30s])"),
        ("rate(up[$__rate_interval])", "rate(up[60s])"),
        ("rate(up[$__interval])", "rate(up[15s])"),
        ("increase(up[$__range])", "increase(up[1800s])"),
        ("label_replace(up, 'a', 'b')", "label_replace(up, 'a', 'b')"),
    ],
)
def test_filling_as_grafana_does(text: str, filled: str) -> None:
    assert Filling.defaults(BOARDS[Uid.SERVICE], now=1e9).fill(asked(text)) == filled


def test_filling_of_several_values_and_longer_ranges() -> None:
    board = copy.deepcopy(BOARDS[Uid.SERVICE])
    board["time"]["from"] = "now-24h"
    version = next(v for v in board["templating"]["list"] if v["name"] == "version")
    version["current"]["value"] = ["1.0", "1.1"]
    filling = Filling.defaults(board, now=1e9)
    text = "$version $interval $__interval $__rate_interval"
    assert filling.fill(asked(text)) == "(1.0|1.1) 720s 86s 101s"
    assert filling.fill(asked("$__interval", minimum_step=300)) == "300s"
    assert filling.choose(service="other", unknown="x").fill(asked("$service")) == "other"


def test_variable_that_nobody_sets_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"board / panel \(A\): nobody sets the variable nobody"):
        Filling.defaults(BOARDS[Uid.SERVICE]).fill(asked("up{a='$nobody'}"))


# --- What may be empty ------------------------------------------------------------------------------------------------


def test_every_exception_is_about_a_query_that_exists() -> None:
    everything = [question for _, question in QUESTIONS]
    assert list(may_be_empty.left_over(everything)) == []
    assert all(entry.reason for entry in may_be_empty.TABLE)


def test_exception_that_outlived_its_panel_is_named() -> None:
    table = [
        MayBeEmpty(Uid.SERVICE, "Gone", "no reason"),
        MayBeEmpty(Uid.SERVICE, "Requests", "no reason", "AZ"),
        MayBeEmpty(Uid.SERVICE, "Requests", "no reason"),
    ]
    everything = [question for _, question in QUESTIONS]
    assert list(may_be_empty.left_over(everything, table)) == [
        "sightglass-service / Gone is listed as possibly empty, but there is no such query",
        "sightglass-service / Requests (Z) is listed as possibly empty, but there is no such query",
    ]


def test_exception_covers_its_letters_only() -> None:
    table = [MayBeEmpty(Uid.SERVICE, "Requests by status", "a reason", "B")]
    here = next(q for _, q in QUESTIONS if q.panel == "Requests by status")
    assert may_be_empty.reason(here, TEXT_CLASSIFIER, table) == ""
    assert (
        may_be_empty.reason(here, TEXT_CLASSIFIER, [MayBeEmpty(Uid.SERVICE, "Requests by status", "a reason", "A")])
        == "a reason"
    )


def test_what_a_model_does_not_have_may_be_empty_and_nothing_else() -> None:
    def empty(model: Declaration) -> set[str]:
        here = [q for _, q in QUESTIONS if q.dashboard == Uid.MODEL and q.kind is not Kind.EXEMPLARS]
        return {question.panel for question in here if may_be_empty.reason(question, model)}

    assert "Confidence" in empty(PRICES) - empty(TEXT_CLASSIFIER)
    assert "Predicted values" in empty(TEXT_CLASSIFIER) - empty(PRICES)
    assert "Categories" in empty(TEXT_CLASSIFIER) - empty(PRICES)
    assert {"Predictions", "Time by stage, p95", "$feature"} & (empty(TEXT_CLASSIFIER) | empty(PRICES)) == set()


def test_json_ends_with_a_newline_and_is_sorted() -> None:
    for path in catalogue.FOLDER.glob("*.json"):
        text = path.read_text()
        assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
