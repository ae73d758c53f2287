"""The command behind ``make load``."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any, Literal
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
from sightglass import credentials, http, settings, target, up
from sightglass.errors import UserError
from sightglass.settings import Settings
from sightglass.target import Target
from text_classifier.settings import settings as service_settings

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it."""

_SHARE = click.FloatRange(0, 1)
_POSITIVE = click.FloatRange(0, min_open=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--shape", type=click.Choice(list(SHAPES)), default=Load.shape, help="All users, or spikes of them.")
@click.option("--users", type=click.IntRange(1), default=Load.users, help="Users at one time, at most.")
@click.option("--duration", type=_POSITIVE, default=Load.duration, help="Seconds.")
@click.option("--corrupt", type=_SHARE, default=Load.corrupt, help="Share of requests that are wrong on purpose.")
@click.option("--seed", type=int, default=Load.seed, help="Fixes which posts and mistakes are sent.")
@click.option(
    "--corpus",
    "source",
    type=click.Choice(("auto", "newsgroups", "small")),
    default="auto",
    help="Where the posts come from; auto takes 20 Newsgroups where it can be had.",
)
@click.option("--url", show_default="SERVICE_URL of `make env`", help="The service.")
@click.option("--max-failure-ratio", type=_SHARE, default=Thresholds.failure_ratio, help="More fails the run.")
@click.option("--max-p99", type=_POSITIVE, default=Thresholds.p99, help="Milliseconds; slower good requests fail it.")
@click.option(
    "--min-throughput", type=_POSITIVE, default=Thresholds.throughput, help="Requests per second; fewer fail it."
)
@click.option("--publish/--no-publish", default=True, help="Send locust's own view to the Collector, as metrics.")
@click.option("--web", is_flag=True, help="Open locust's own page instead, on this machine only.")
def main(
    shape: str,
    users: int,
    duration: float,
    corrupt: float,
    seed: int,
    source: Literal["auto", "newsgroups", "small"],
    url: str | None,
    max_failure_ratio: float,
    max_p99: float,
    min_throughput: float | None,
    publish: bool,
    web: bool,
) -> None:
    """Send real posts to the service, some of them corrupted, and judge every answer.

    Exit status 1 when a threshold was not held or a corrupted request was accepted, each with one sentence. The
    slowest and the failed requests are listed with the addresses of their traces.
    """
    if shape == "burst" and duration < BURST_SECONDS:
        raise click.BadParameter(
            f"burst has its first spike within {BURST_SECONDS:g} seconds: take at least that.", param_hint="--duration"
        )
    loaded = settings.load()
    where = _target(loaded)
    url = _checked(url or where.service_url)
    load = Load(shape, users, duration, corrupt, seed)
    thresholds = Thresholds(max_failure_ratio, max_p99, min_throughput)
    links = TraceLinks(where.tempo_url, where.grafana_url)
    console = Console()
    _require_service(url)
    name, texts = _posts(console, source)
    test = LoadTest(load, url, texts)
    facts = {"url": url, "corpus": name, "texts": len(texts), **asdict(load), "thresholds": asdict(thresholds)}

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
    with publishing(), display.Meter(console, duration) as meter:
        whole = test.headless(meter.show)
    held = finish()
    if not whole:
        print("FAILED: The run was interrupted before its time was over.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0 if held else 1)


def _target(loaded: Settings) -> Target:
    """Addresses of the stack on this machine, each of which a variable of that name replaces."""
    grafana = up.credentials_file(loaded).exists() and not up.grafana_file(loaded).exists()
    here = target.local(loaded, credentials.Credentials(), grafana=grafana)
    names = ("service_url", "tempo_url", "grafana_url", "otlp_http_url")
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


def _posts(console: Console, source: Literal["auto", "newsgroups", "small"]) -> tuple[str, tuple[str, ...]]:
    """Name of the corpus and the posts of its test split that the service takes."""
    say(console, "loading the posts")
    # Imported late, for scikit-learn takes a second: a mistake on the command line is told before.
    from text_classifier import corpus

    try:
        loaded = corpus.load(source)
    except corpus.CorpusUnavailableError as error:
        raise UserError(str(error)) from None
    limit = service_settings().max_characters
    texts = tuple(text for text in loaded.test.texts if len(text) <= limit)
    kind = "real posts" if loaded.name == corpus.NEWSGROUPS_NAME else "composed texts"
    say(console, f"corpus {loaded.name}: {len(texts)} {kind} of its test split")
    return loaded.name, texts
