"""The command behind ``make load``."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from load_testing import display, report
from load_testing.display import say
from load_testing.plan import Load, Thresholds
from load_testing.run import LoadTest
from load_testing.shapes import BURST_SECONDS, SHAPES
from load_testing.telemetry import published
from load_testing.traces import TraceLinks
from sightglass.clients import http
from sightglass.facts import credentials, settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import Settings
from sightglass.facts.target import Target
from sightglass.local import state, up
from sightglass.local.requests import Requests
from sightglass.local.requests import of as requests_of

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it."""

_SHARE = click.FloatRange(0, 1)
_POSITIVE = click.FloatRange(0, min_open=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--shape", type=click.Choice(list(SHAPES)), default=Load.shape, help="All users, or spikes of them.")
@click.option("--users", type=click.IntRange(1), default=Load.users, help="Users at one time, at most.")
@click.option("--duration", type=_POSITIVE, default=Load.duration, help="Seconds.")
@click.option("--rate", type=_POSITIVE, help="Requests per second of all users; without, as many as are answered.")
@click.option("--corrupt", type=_SHARE, default=Load.corrupt, help="Share of requests that are wrong on purpose.")
@click.option("--drifted", type=_SHARE, default=Load.drifted, help="Share of requests of another kind than trained on.")
@click.option("--health", type=_SHARE, default=Load.health, help="Share of questions whether the service is ready.")
@click.option("--seed", type=int, default=Load.seed, help="Fixes which requests are sent.")
@click.option("--service", "name", show_default="the first of the table", help="The service.")
@click.option("--url", show_default="as in `make env`", help="Its address.")
@click.option("--max-failure-ratio", type=_SHARE, default=Thresholds.failure_ratio, help="More fails the run.")
@click.option("--max-p99", type=_POSITIVE, default=Thresholds.p99, help="Milliseconds; slower good requests fail it.")
@click.option(
    "--min-throughput", type=_POSITIVE, default=Thresholds.throughput, help="Requests per second; fewer fail it."
)
@click.option("--publish/--no-publish", default=True, help="Send locust's own view to the Collector, as metrics.")
@click.option("--real", is_flag=True, help="Let the requests count as users': alerts and objectives see them.")
@click.option("--web", is_flag=True, help="Open locust's own page instead, on this machine only.")
def main(
    shape: str,
    users: int,
    duration: float,
    rate: float | None,
    corrupt: float,
    drifted: float,
    health: float,
    seed: int,
    name: str | None,
    url: str | None,
    max_failure_ratio: float,
    max_p99: float,
    min_throughput: float | None,
    publish: bool,
    real: bool,
    web: bool,
) -> None:
    """Send real requests to a service, some of them corrupted, and judge every answer.

    Exit status 1 when a threshold was not held or a corrupted request was accepted, each with one sentence. The
    slowest and the failed requests are listed with the addresses of their traces.
    """
    if shape == "burst" and duration < BURST_SECONDS:
        raise click.BadParameter(
            f"burst has its first spike within {BURST_SECONDS:g} seconds: take at least that.", param_hint="--duration"
        )
    loaded = settings.load()
    where = _target(loaded)
    endpoint = where.endpoint(name)
    url = _checked(url or os.environ.get("SERVICE_URL", "") or endpoint.url)
    if corrupt + drifted + health > 1:
        raise click.BadParameter("corrupt, drifted and health are shares of all: together 1 at most.")
    load = Load(shape, users, duration, corrupt, seed, rate, drifted, health)
    thresholds = Thresholds(max_failure_ratio, max_p99, min_throughput)
    links = TraceLinks(where.tempo_url, where.grafana_url)
    console = Console()
    _require_service(url)
    state.claim(loaded)
    requests = _requests(console, endpoint.service, load)
    key = "" if real else endpoint.synthetic_key
    if not real and not key:
        say(console, f"there is no stack in {loaded.state_dir} whose key marks requests: they count as users'")
    test = LoadTest(load, url, endpoint.declaration, requests, key)
    facts = {
        "url": url,
        "service": endpoint.name,
        "requests": requests.source,
        "bodies": len(requests.valid),
        "synthetic": bool(key),
        **asdict(load),
        "thresholds": asdict(thresholds),
    }

    def finish() -> bool:
        """Judge and report the run that has ended; say whether it held every threshold."""
        outcome = test.outcome()
        violations = thresholds.violations(outcome)
        files = report.write(loaded.state_dir / "load", test.environment, outcome, violations, links, facts)
        display.show(console, outcome, links, files)
        for sentence in violations:
            print(f"FAILED: {sentence}", file=sys.stderr)
        return not violations

    def publishing() -> AbstractContextManager[None]:
        if not publish:
            return nullcontext()
        return published(where.otlp_http_url, test.environment, lambda sentence: say(console, sentence))

    if web:
        with publishing():
            test.page(
                loaded.ports["locust"],
                ready=lambda address: say(console, f"Locust's page: {address} (Ctrl-C ends it)"),
                finished=finish,
            )
        return
    say(
        console,
        f"{shape}: up to {users} users for {duration:g} s against {url}, {100 * corrupt:.3g} % corrupted requests",
    )
    with publishing(), display.Figures(console, duration) as figures:
        whole = test.headless(figures.show)
    held = finish()
    if not whole:
        print("FAILED: The run was interrupted before its time was over.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0 if held else 1)


def _target(loaded: Settings) -> Target:
    """Addresses of the stack on this machine, each of which a variable of that name replaces."""
    file = credentials.file_in(loaded.state_dir)
    if file.exists():
        here = target.running(loaded, grafana=not up.grafana_file(loaded).exists())
    else:
        # A stack elsewhere: its key is not known here.
        here = target.local(loaded, credentials.Credentials(), grafana=False)
        here = replace(here, services=tuple(replace(one, synthetic_key="") for one in here.services))
    names = ("tempo_url", "grafana_url", "otlp_http_url")
    given: dict[str, Any] = {name: os.environ.get(name.upper(), "").rstrip("/") for name in names}
    return replace(here, **{name: url for name, url in given.items() if url})


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is no address of a service: --url wants one like http://127.0.0.1:8000.")
    return url.rstrip("/")


def _require_service(url: str) -> None:
    try:
        status = http.session.get(f"{url}/readyz", timeout=5).status_code
    except http.Error as error:
        raise UserError(
            f"The service does not answer at {url} ({type(error).__name__}): start it with `make up`, or set --url."
        ) from None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise UserError(f"The service at {url} is not ready (/readyz says 503): see `make status`.")


def _requests(console: Console, service: Service, load: Load) -> Requests:
    """The requests of a service; :class:`UserError` where there is none of a kind that is wanted."""
    say(console, f"loading the requests of {service.name}")
    found = requests_of(service)
    for kind, share in (("corrupted", load.corrupt), ("drifted", load.drifted)):
        if share and not found.of_kind(kind):
            raise UserError(f"{service.name} has no {kind} requests: leave that share at 0, or add some to its `load`.")
    say(console, found.source)
    return found
