"""Verify against servers that stand in the way of it: no row passes its time; what it asks of a bucket stays little."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sightglass.clients import backends, buckets
from sightglass.clients.polling import NotYet
from sightglass.facts import object_storage
from sightglass.facts.settings import SERVICES
from sightglass.facts.target import Endpoint, Target
from sightglass.verify import objects
from sightglass.verify.run import GRACE, verify
from sightglass.verify.signal_checks import Check, Evidence

SECOND = 1_000_000_000
TIMEOUT = 1.5
ANSWER = {"prediction_id": "01a1fdfc-cc9b-73ae-a357-0371f18eca28", "label": "one"}


class Handler(BaseHTTPRequestHandler):
    """A service that predicts, and a server that keeps everybody waiting in one way or another."""

    protocol_version = "HTTP/1.1"
    over: threading.Event

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(json.dumps(ANSWER).encode())

    def do_GET(self) -> None:
        if self.path == "/silent":
            self.over.wait(30)
        elif self.path == "/dripping":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            while not self.over.wait(0.2):
                self.wfile.write(b" ")
        else:
            self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering() -> Iterator[str]:
    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"over": over}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def target(url: str) -> Target:
    return Target((Endpoint(SERVICES[0], url),), url, url, url, url, url, url, url, "reader", "secret", "us-east-1")


@pytest.mark.parametrize("path", ["silent", "dripping", "refusing"])
def test_no_row_passes_its_time(path: str) -> None:
    def ask(evidence: Evidence) -> str:
        # One after the other, as a row with many look-ups does.
        for _ in range(1 if path == "refusing" else 50):
            backends.get("the server", f"{evidence.target.tempo_url}/{path}")
        raise NotYet("nothing is there")

    def fast(evidence: Evidence) -> str:
        return f"{len(evidence.made())} predictions"

    with answering() as url:
        began = time.monotonic()
        checks = [Check("signal", name, "tempo", (), find) for name, find in (("slow", ask), ("fast", fast))]
        report = verify(target(url), timeout=TIMEOUT, checks=checks)
        seconds = time.monotonic() - began
    assert [(row.name, row.ok) for row in report.rows] == [("slow", False), ("fast", True)]
    assert report.rows[0].seconds <= TIMEOUT + GRACE
    waited = re.match(r"waited (\d(?:\.\d+)?) s for slow in tempo", report.rows[0].detail)
    # The predictions before it took some of the time.
    assert waited, report.rows[0].detail
    assert TIMEOUT - 1 < float(waited[1]) <= TIMEOUT
    assert seconds < TIMEOUT + GRACE + 1


@dataclass
class Found:
    """An object as a listing has it."""

    object_name: str
    last_modified: datetime


@dataclass
class Bucket:
    """A store that lists by name, as S3 does, and counts what is asked of it."""

    contents: dict[str, tuple[datetime, bytes]]
    listed: int = 0
    read: list[str] = field(default_factory=list)

    def list_objects(self, bucket_name: str, prefix: str = "", start_after: str = "", recursive: bool = False) -> Any:
        seen = set()
        for name in sorted(self.contents):
            if not name.startswith(prefix) or name <= start_after:
                continue
            rest = name.removeprefix(prefix)
            shown = name if recursive or "/" not in rest else f"{prefix}{rest.split('/')[0]}/"
            if shown not in seen:
                seen.add(shown)
                self.listed += 1
                yield Found(shown, self.contents[name][0])

    def get_object(self, bucket_name: str, object_name: str) -> Any:
        self.read.append(object_name)
        return Content(self.contents[object_name][1])


@dataclass
class Content:
    body: bytes

    def read(self) -> bytes:
        return self.body

    def close(self) -> None:
        pass

    release_conn = close


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket({})
    monkeypatch.setattr(buckets, "reader", lambda _: made)
    return made


def chunk(stream: str, start: int, end: int) -> str:
    return f"fake/{stream}/{start * 1000:x}:{end * 1000:x}:c0ffee"


def test_a_chunk_is_found_by_its_name_and_an_hour_of_others_is_not_listed(bucket: Bucket) -> None:
    now = 1_800_000_000
    written = datetime.now(UTC)
    busy = {chunk("a1", second, second + 2): (written, b"") for second in range(now - 7200, now - 4, 2)}
    bucket.contents = busy | {chunk("b2", now - 3000, now - 2900): (written, b"")}
    where = target("http://store")
    with pytest.raises(NotYet, match=f"{object_storage.LOKI_BUCKET} has no chunk of this run"):
        objects.chunk_covering(where, now * SECOND)
    bucket.contents[chunk("a1", now - 4, now + 1)] = (written, b"")
    bucket.listed = 0
    assert objects.chunk_covering(where, now * SECOND).endswith(chunk("a1", now - 4, now + 1))
    assert bucket.listed < 40
    assert bucket.read == []
    # One that began an hour ago, as where there is little traffic.
    bucket.contents = {chunk("b2", now - 3500, now): (written, b"")}
    assert objects.chunk_covering(where, now * SECOND).endswith(chunk("b2", now - 3500, now))
    # One of a moment later is not of this run.
    bucket.contents = {chunk("a1", now + 60, now + 70): (written, b"")}
    with pytest.raises(NotYet):
        objects.chunk_covering(where, now * SECOND)


def test_a_block_is_read_once_and_must_cover_the_moment(bucket: Bucket) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    moment = int(began.timestamp()) * SECOND

    def meta(start: int, end: int) -> bytes:
        times = (began + timedelta(seconds=second) for second in (start, end))
        return json.dumps(dict(zip(("startTime", "endTime"), (t.isoformat() for t in times), strict=True))).encode()

    bucket.contents = {f"single-tenant/old{n}/meta.json": (began - timedelta(hours=1), b"") for n in range(200)}
    bucket.contents["single-tenant/new/meta.json"] = (began + timedelta(seconds=1), meta(-300, -1))
    bucket.contents["single-tenant/new/data.parquet"] = (began + timedelta(seconds=1), b"")
    bucket.contents["single-tenant/later/meta.json"] = (began + timedelta(seconds=1), meta(60, 90))
    blocks = objects.Blocks(target("http://store"), moment)
    for _ in range(3):
        with pytest.raises(NotYet, match=f"{object_storage.TEMPO_BUCKET} has no block of this run"):
            blocks.covering(moment)
    assert sorted(bucket.read) == ["single-tenant/later/meta.json", "single-tenant/new/meta.json"]
    bucket.contents["single-tenant/ours/meta.json"] = (began + timedelta(seconds=2), meta(-300, 1))
    assert blocks.covering(moment) == f"{object_storage.TEMPO_BUCKET}/single-tenant/ours/meta.json"
    assert bucket.read[-1] == "single-tenant/ours/meta.json"
    assert len(bucket.read) == 3


def test_a_store_that_does_not_answer_is_named() -> None:
    with pytest.raises(NotYet, match=r"minio does not list bucket .* at http://127\.0\.0\.1:1 \("):
        objects.chunk_covering(target("http://127.0.0.1:1"), 0)
