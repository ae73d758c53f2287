"""A person's clicks in a real Grafana: from a log line to its trace, and from the trace back to the line."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from sightglass.clients import polling
from sightglass.local import up
from sightglass.verify.predictions import Prediction, predict
from sightglass.verify.run import verify
from sightglass.verify.signal_checks import Evidence, log_line, trace_by_id
from tests.integration.running import Running

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("background-networking", "component-update", "sync", "default-apps", "gpu")
PATIENCE = 30_000
"""Milliseconds for one step of the page."""


@pytest.fixture(scope="module")
def grafana(stack: Running) -> str:
    if not stack.target.grafana_url:
        pytest.skip(f"needs Grafana: {up.grafana_file(stack.settings).read_text()}")
    return stack.target.grafana_url


@pytest.fixture(scope="module")
def page(stack: Running, grafana: str) -> Iterator[Page]:
    """A browser in which the administrator has logged in."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("needs a Chromium: install it, or set CHROMIUM to its path")
    options = [f"--disable-{name}" for name in QUIET] + ["--no-first-run"]
    # Chromium's own sandbox does not work for root.
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        opened = browser.new_page(viewport={"width": 1600, "height": 1100})
        opened.set_default_timeout(PATIENCE)
        opened.goto(f"{grafana}/login")
        opened.fill("input[name=user]", "admin")
        opened.fill("input[name=password]", stack.credentials.grafana_admin_password)
        opened.click("button[type=submit]")
        opened.wait_for_url(lambda url: "/login" not in url)
        yield opened
        browser.close()


@pytest.fixture
def prediction(stack: Running) -> Prediction:
    made = Evidence(stack.target)
    made.predictions = [predict(stack.target.endpoint())]
    for find in (log_line, trace_by_id):
        polling.until(lambda find=find: find(made), timeout=30, what=find.__name__)  # type: ignore[misc]
    return made.predictions[0]


def explore(grafana: str, uid: str, query: dict[str, str]) -> str:
    """Address of Explore with one query; every Grafana since 8 reads this form."""
    left = {"datasource": uid, "queries": [{"refId": "A", **query}], "range": {"from": "now-15m", "to": "now"}}
    return f"{grafana}/explore?{urlencode({'orgId': 1, 'left': json.dumps(left)})}"


def button(page: Page, text: str) -> Locator:
    """What a person clicks to follow a link: Grafana makes it a link with an address, or a button."""
    name = re.compile(text, re.IGNORECASE)
    return page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name)).first


@pytest.fixture
def pictured(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """The page as it was at the end, to be looked at when a test has failed."""
    yield
    picture = tmp_path / "page.png"
    page.screenshot(path=picture)
    print(f"{request.node.name}: {picture}")


@pytest.mark.usefixtures("pictured")
def test_from_a_line_to_its_trace(page: Page, grafana: str, prediction: Prediction) -> None:
    page.goto(explore(grafana, "loki", {"expr": f'{{service_name="text-classifier"}} |= "{prediction.trace_id}"'}))
    page.locator("tr, [role=row], [data-testid*=log-row]", has_text=prediction.prediction_id).first.click()
    button(page, "^Trace").click()
    # The trace opens beside the line.
    for span in ("preprocess", "vectorize", "postprocess"):
        expect(page.get_by_text(span).first).to_be_visible()
    expect(page.get_by_text(prediction.trace_id, exact=True).last).to_be_visible()


@pytest.mark.usefixtures("pictured")
def test_from_a_span_to_its_line(page: Page, grafana: str, prediction: Prediction) -> None:
    page.goto(explore(grafana, "tempo", {"queryType": "traceql", "query": prediction.trace_id}))
    page.get_by_text("postprocess").first.click()
    assert page.get_by_text(prediction.prediction_id).count() == 0, "the id shows before the logs do"
    button(page, "logs for this span").click()
    expect(page.get_by_text(f'"ml.prediction.id":"{prediction.prediction_id}"').first).to_be_visible()


@pytest.mark.usefixtures("pictured")
def test_a_line_of_no_request_has_no_trace_button(page: Page, grafana: str, stack: Running) -> None:
    """The twin: a line without a trace id has the same fields, and nothing to click."""
    page.goto(explore(grafana, "loki", {"expr": '{service_name="text-classifier"} |= "ml.model.loaded"'}))
    page.locator("tr, [role=row], [data-testid*=log-row]", has_text="ml.model.loaded").first.click()
    expect(page.get_by_text("service_name").first).to_be_visible()
    expect(button(page, "^Trace")).to_have_count(0)


def test_every_link_resolves_through_grafana(stack: Running, grafana: str) -> None:
    report = verify(stack.target)
    assert [row for row in report.rows if not row.ok] == []
    assert {row.name for row in report.rows if row.kind == "via grafana"} == {
        row.name for row in report.rows if row.kind == "link"
    }
