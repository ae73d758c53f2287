"""Hostile requests and records against the running stack, and what became of everybody else: ``make fuzz``."""

from __future__ import annotations

import json
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

import click
import psutil
from rich.progress import Progress
from rich.table import Table

from ml_telemetry import signals
from sightglass.clients import backends, http, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.settings import SERVICE, Settings
from sightglass.facts.target import Target
from sightglass.local.supervise import Supervisor
from sightglass.terminal import screen
from sightglass.verify.predictions import Prediction, bodies, predict
from sightglass.verify.signal_checks import HTTP_COUNT
from tests.fuzz import search
from tests.fuzz.callers import Callers, Request
from tests.fuzz.records import PATHS, SECOND, Senders, Sent
from tests.fuzz.sharing import LINES, Item, Sharing

MEBIBYTE: Final = 2**20
ROOM: Final = 32
"""MiB by which a process may grow between the tenth part of the requests and the last."""
OWED: Final = 10.0
"""Seconds in which a whole request is answered."""
PATIENCE: Final = 0.3
"""Seconds for the answer to a damaged request: the service may rightly wait for the rest of it."""
WAIT: Final = 60.0
AT_ONCE: Final = 2
"""Look-ups at a time: Tempo reads a stored trace column by column, and of many at once none would end in its time."""
UNWRITABLE: Final = "failed to marshal error message"
GAP: Final = 5.0
"""Seconds between two stored points of the service, which exports one a second."""


@dataclass
class Run:
    """What was sent and what came of it."""

    hidden: str
    """A word that callers put wherever they can, and that nothing may keep."""
    shown: str
    """A word where the contract keeps it."""
    secret: str
    """An address that senders put wherever they can, and that is masked everywhere."""
    service: str
    """Name of those senders."""
    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    neighbours: list[Prediction] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)
    collector_errors: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    """What was sent by somebody else in the same requests, and beside them."""
    resident: dict[str, list[int]] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    ended: float = 0.0


def exchange(address: tuple[str, int], request: Request) -> int | None:
    """Send one request on a connection of its own; return the status, or None without an answer."""
    seconds = OWED if request.whole else PATIENCE
    try:
        with socket.create_connection(address, timeout=seconds) as connection:
            # Where it was answered and closed before all of it was sent, the answer may still be read.
            with suppress(OSError):
                connection.sendall(request.sent)
            head = b""
            while b" " not in head or len(head) < 12:
                part = connection.recv(4096)
                if not part:
                    return None
                head += part
            return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
    except (OSError, ValueError):
        return None


def call(run: Run, where: Target, callers: Callers, numbers: Iterable[int], report: Callable[[], Any]) -> None:
    """Send hostile requests one after the other."""
    url = urlsplit(where.endpoint().url)
    address = (url.hostname or "", url.port or 0)
    for number in numbers:
        request = callers.request(number)
        status = exchange(address, request)
        report()
        if status is None:
            if request.whole:
                run.unanswered.append(f"{number}: {request.kind}")
            continue
        run.statuses[status] += 1
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == 0:
            run.server_errors.append(f"{number}: {request.kind}: {status}")


def emit(run: Run, where: Target, loki_url: str, senders: Senders, sharing: Sharing, numbers: Iterable[int]) -> None:
    """Send hostile requests to the Collector one after the other, and somebody else's between them."""

    def post(sent: Sent, number: int) -> int:
        url = f"{loki_url}/loki/api/v1/push" if sent.signal == LINES else where.otlp_http_url + PATHS[sent.signal]
        try:
            answer = http.session.post(url, data=sent.body, headers={"content-type": "application/json"}, timeout=30)
        except http.Error as error:
            run.collector_errors.append(f"{number}: {sent.signal}: {type(error).__name__}")
            return 0
        # What is no OTLP is refused with a quotation, which cannot be written where it ends within a letter.
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR and UNWRITABLE not in answer.text:
            run.collector_errors.append(f"{number}: {sent.signal}: {answer.status_code}: {answer.text[:200]}")
        return answer.status_code

    for number in numbers:
        sent = senders.request(number)
        status = post(sent, number)
        run.records[f"{status} for {sent.signal}"] += 1
        # A request that cannot be read is refused with all that is in it.
        if sent.good and status < HTTPStatus.BAD_REQUEST:
            run.items.append(sent.good)
        if beside := sharing.beside(sent.signal, number):
            post(Sent(beside.signal, sharing.request(beside)), number)
            run.items.append(beside)


@contextmanager
def neighbours(run: Run, where: Target, every: float, most: int) -> Iterator[None]:
    """Somebody else asks for predictions all the time, with traces of their own."""
    over = threading.Event()
    sent = bodies(where.endpoint())

    def ask() -> None:
        while not over.wait(every) and len(run.neighbours) < most:
            try:
                run.neighbours.append(predict(where.endpoint(), sent[len(run.neighbours) % len(sent)]))
            except NotYet as reason:
                run.refused.append(str(reason))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def resident(loaded: Settings, name: str) -> int:
    """Return the private memory of a component's processes, in bytes."""
    pid = Supervisor(loaded.state_dir).states()[name].pid
    process = psutil.Process(pid)
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


def settled(loaded: Settings, name: str) -> int:
    """Return the private memory of a component's processes once it stays: what is being worked on is no growth."""
    before = sys.maxsize

    def stays() -> int:
        nonlocal before
        before, last = resident(loaded, name), before
        if before < last - MEBIBYTE:
            raise NotYet("it still shrinks")
        return before

    with suppress(DeadlineError):
        return polling.until(stays, timeout=10.0, interval=1.0, what=f"the memory of {name}")
    return before


def flow(
    run: Run, loaded: Settings, where: Target, sharing: Sharing, seed: int, requests: int, records: int, threads: int
) -> None:
    """Send everything, and note the memory after a tenth and at the end."""
    callers = Callers(seed, run.hidden, run.shown)
    senders = Senders(seed, run.service, run.secret, sharing)
    loki_url = loaded.url("collector_loki")
    parts = (range(requests // 10), range(requests // 10, requests))
    shares = (range(records // 10), range(records // 10, records))
    with Progress(transient=True) as progress, ThreadPoolExecutor(threads + 1) as pool:
        task = progress.add_task("hostile requests", total=requests)
        for part, share in zip(parts, shares, strict=True):
            jobs = [
                pool.submit(call, run, where, callers, part[first::threads], lambda: progress.advance(task))
                for first in range(threads)
            ]
            jobs.append(pool.submit(emit, run, where, loki_url, senders, sharing, share))
            for job in jobs:
                job.result()
            for name in (SERVICE, "collector"):
                run.resident.setdefault(name, []).append(settled(loaded, name))


@dataclass(frozen=True)
class Row:
    """One line of the table; it is met when nothing is in ``wrong``."""

    name: str
    found: str
    wrong: list[str]


def lost_neighbours(run: Run, where: Target) -> list[str]:
    """Neighbours whose answer, line or trace is missing, and gaps between the service's points."""
    loki, tempo = backends.Loki(where.loki_url), backends.Tempo(where.tempo_url)

    def missing(prediction: Prediction) -> str:
        def there() -> None:
            query = f'{{service_name="{SERVICE}"}} | trace_id="{prediction.trace_id}"'
            end = time.time_ns() + SECOND
            if len(loki.lines(query, start=prediction.sent - SECOND, end=end)) != 1:
                raise NotYet("its line")
            if not tempo.has(prediction.trace_id):
                raise NotYet("its trace")

        try:
            polling.until(there, timeout=WAIT, interval=1.0, what=f"neighbour {prediction.trace_id}")
        except DeadlineError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        lost = [problem for problem in pool.map(missing, run.neighbours) if problem]
    selector = f'{HTTP_COUNT}{{service_name="{SERVICE}"}}'
    times = backends.Prometheus(where.prometheus_url).times(selector, start=run.began, end=run.ended)
    edges = [run.began, *times, run.ended]
    gaps = [f"no point for {b - a:.0f} s" for a, b in pairwise(edges) if b - a > GAP]
    return [*run.refused, *lost, *gaps]


def injected_labels(run: Run, where: Target) -> list[str]:
    """Index labels and their values that are not the contract's."""
    own = {"service_name", "service_namespace", "deployment_environment_name", "level", "late", "__stream_shard__"}
    levels = {"trace", "debug", "info", "warn", "error", "fatal", "unknown"}
    return [
        f"{label}={value}"
        for label, value in search.label_values(where, run.began)
        if label not in own
        or (label == "level" and value not in levels)
        or run.hidden in value.removeprefix("fuzz-")[1:]
    ]


def injected_lines(loaded: Settings) -> list[str]:
    """Lines of the service's log that are no object with a trace id or an event of the contract."""
    wrong = []
    known = {event.name for event in signals.LOG_EVENTS} | {"log"}
    for file in loaded.service_logs_dir.glob(f"{SERVICE}.log*"):
        for line in file.read_text(errors="replace").splitlines():
            try:
                fields = json.loads(line)
                if fields["event.name"] not in known:
                    wrong.append(line[:200])
            except (ValueError, KeyError, TypeError):
                wrong.append(line[:200])
    return wrong


def judge(run: Run, loaded: Settings, where: Target, sharing: Sharing) -> list[Row]:
    """Compare what was found with what must be."""
    items = sharing.missing(where, run.items, run.began, WAIT)
    search.until_found(where, run.shown, run.neighbours[0].trace_id, run.service, run.began, WAIT)
    lost = lost_neighbours(run, where)
    places = {
        word: [
            f"{word}: {server}: {place}"
            for server, found in search.everywhere(where, loaded.state_dir, word, run.began).items()
            for place in found
        ]
        for word in (run.hidden, run.secret)
    }
    answers = ", ".join(f"{count:,} of {status}" for status, count in sorted(run.statuses.items()))
    taken = ", ".join(f"{count:,} of {what}" for what, count in sorted(run.records.items()))
    grown = {name: (last - first) / MEBIBYTE for name, (first, last) in run.resident.items()}
    labels, lines = injected_labels(run, where), injected_lines(loaded)
    return [
        Row("answers of 5xx", f"{len(run.server_errors)}; {answers}", run.server_errors),
        Row("whole requests without an answer", str(len(run.unanswered)), run.unanswered),
        Row("lost neighbours", f"{len(lost)} of {len(run.neighbours) + len(run.refused)}", lost),
        Row("lost items of good senders", f"{len(items)} of {len(run.items):,}", items),
        *(
            Row(f"growth of {name}", f"{mib:+.0f} MiB", [] if mib <= ROOM else [f"more than {ROOM} MiB"])
            for name, mib in grown.items()
        ),
        Row("hostile records without a good answer", f"{len(run.collector_errors)}; {taken}", run.collector_errors),
        Row("injected labels", str(len(labels)), labels),
        Row("injected lines", str(len(lines)), lines),
        *(Row(f"places of {word}", str(len(found)), found) for word, found in places.items()),
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", default=100_000, help="Hostile requests to the service.")
@click.option("--records", default=10_000, help="Hostile requests to the Collector.")
@click.option("--seed", default=1, help="Equal seeds make equal requests.")
@click.option("--threads", default=16, help="Callers at once.")
@click.option("--only", type=int, help="Print the request of this number instead, as bytes.")
def main(requests: int, records: int, seed: int, threads: int, only: int | None) -> None:
    """Show that no caller and no sender, however hostile, costs anybody else anything."""
    word = secrets.token_hex(6)
    sharing = Sharing(word)
    run = Run(hidden=f"zqh{word}", shown=f"zqs{word}", secret=f"zqm{word}@example.org", service=f"fuzz-{word}")
    if only is not None:
        click.echo(repr(Callers(seed, run.hidden, run.shown).request(only)))
        return
    loaded = settings.load()
    where = target.running(loaded)
    try:
        predict(where.endpoint())
    except NotYet as reason:
        raise UserError(f"{reason}: start the stack with `make up`.") from None
    with neighbours(run, where, every=0.1, most=1_000):
        flow(run, loaded, where, sharing, seed, requests, records, threads)
    run.ended = time.time()
    rows = judge(run, loaded, where, sharing)
    seconds = run.ended - run.began
    title = f"{requests:,} hostile requests, {records:,} hostile records, seed {seed}, {seconds:.0f} s"
    table = Table(title=title, title_justify="left")
    for heading in ("what", "found", ""):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.name, row.found, screen.mark(not row.wrong))
    console = screen.console()
    console.print(table)
    for row in rows:
        for problem in row.wrong[:10]:
            console.print(f"{row.name}: {problem}", markup=False)
    sys.exit(1 if any(row.wrong for row in rows) else 0)


if __name__ == "__main__":
    main()
