"""Where a word is: in every label, line, span and series that the servers answer with, and in every file and object."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sightglass.clients import backends, buckets, polling
from sightglass.clients.polling import NotYet
from sightglass.facts import object_storage
from sightglass.facts.settings import SERVICE
from sightglass.facts.target import Target
from tests.fuzz.records import SECOND

LARGEST: Final = 64 * 2**20
"""Bytes of a file that are read at once; a word across two parts is found by their overlap."""
INTRINSICS: Final = ("name", "rootName", "rootServiceName", "statusMessage", "event:name", "instrumentation:name")


def everywhere(where: Target, state: Path, word: str, since: float) -> dict[str, list[str]]:
    """Return the places of a word by server, since a Unix time."""
    # Loki logs the questions that it is asked: files are looked at before.
    in_files = list(files(state, word))
    return {
        "loki": list(loki(where, word, since)),
        "tempo": list(tempo(where, word, since)),
        "prometheus": list(prometheus(where, word, since)),
        "objects": list(objects(where, word)),
        "files": in_files,
    }


def loki(where: Target, word: str, since: float) -> Iterator[str]:
    """Look into each line with all its labels and metadata."""
    query = f'{{service_name=~".+"}} | line_format "{{{{ . }}}} {{{{ __line__ }}}}" |= "{word}"'
    found = backends.Loki(where.loki_url).lines(query, start=int(since * SECOND), end=time.time_ns() + SECOND, limit=20)
    for line in found:
        yield f"line of {line.labels.get('service_name')}: {line.line[:200]}"
    for label, value in label_values(where, since):
        if word in label or word in value:
            yield f"index label {label}={value[:100]}"


def label_values(where: Target, since: float) -> Iterator[tuple[str, str]]:
    """Every value of Loki's index labels."""
    window: dict[str, str | int | float] = {"start": int(since * SECOND), "end": time.time_ns() + SECOND}
    base = f"{where.loki_url}/loki/api/v1"
    for label in backends.get("loki", f"{base}/labels", window).json().get("data", []):
        for value in backends.get("loki", f"{base}/label/{label}/values", window).json().get("data", []):
            yield label, value


def tempo(where: Target, word: str, since: float) -> Iterator[str]:
    """Look into every value of every attribute, and of what spans have beside attributes."""
    window: dict[str, str | int | float] = {"start": int(since), "end": int(time.time()) + 1}
    base = f"{where.tempo_url}/api/v2/search"
    scopes = backends.get("tempo", f"{base}/tags", {**window, "limit": 0}).json().get("scopes", [])
    tags = [f"{scope['name']}.{tag}" for scope in scopes if scope["name"] != "intrinsic" for tag in scope["tags"]]
    for scope in scopes:
        for tag in scope["tags"]:
            if word in tag:
                yield f"name of an attribute: {tag[:100]}"
    for tag in (*tags, *INTRINSICS):
        # A name that cannot stand in a path cannot be asked for; its own text was looked at above.
        with suppress(NotYet):
            address = f"{base}/tag/{quote(tag, safe='')}/values"
            values: list[dict[str, Any]] = backends.get("tempo", address, window).json()["tagValues"]
            # An empty text is left out of the answer.
            texts = [str(value.get("value", "")) for value in values]
            yield from (f"{tag} = {text[:100]}" for text in texts if word in text)


def prometheus(where: Target, word: str, since: float) -> Iterator[str]:
    """Look into every label of every series."""
    base = f"{where.prometheus_url}/api/v1"
    window: dict[str, str | int | float] = {"start": since, "end": time.time() + 1}
    for label in backends.get("prometheus", f"{base}/labels", window).json()["data"]:
        if word in label:
            yield f"label {label}"
        for value in backends.get("prometheus", f"{base}/label/{label}/values", window).json()["data"]:
            if word in value:
                yield f"{label}={value[:100]}"


def objects(where: Target, word: str) -> Iterator[str]:
    """Look into every object, also into what is compressed with gzip."""
    s3 = buckets.reader(where)
    for bucket in (object_storage.LOKI_BUCKET, object_storage.TEMPO_BUCKET):
        for item in s3.list_objects(bucket_name=bucket, recursive=True):
            name = str(item.object_name)
            answer = s3.get_object(bucket_name=bucket, object_name=name)
            try:
                content = answer.read()
            finally:
                answer.close()
                answer.release_conn()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
            if word in name or word.encode() in content:
                yield f"{bucket}/{name}"


def files(state: Path, word: str) -> Iterator[str]:
    """Look into every file of a stack: logs, queues, write-ahead logs, databases."""
    wanted = word.encode()
    for path in sorted(state.rglob("*")):
        # A file may go while it is looked at.
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink() and _holds(path, wanted):
                yield str(path.relative_to(state))


def _holds(path: Path, wanted: bytes) -> bool:
    before = b""
    with path.open("rb") as file:
        while part := file.read(LARGEST):
            if wanted in before + part:
                return True
            before = part[-len(wanted) :]
    return False


def until_found(where: Target, in_span: str, in_line: str, in_label: str, since: float, timeout: float) -> None:
    """Wait until the search finds a word of each kind that is kept: what it does not find later is not there."""

    def found() -> None:
        for search, word in ((tempo, in_span), (loki, in_line), (loki, in_label)):
            if not list(search(where, word, since)):
                raise NotYet(f"{search.__name__} does not find {word}")
        if not list(prometheus(where, SERVICE, since)):
            raise NotYet(f"prometheus does not find {SERVICE}")

    polling.until(found, timeout=timeout, interval=1.0, what="words that are kept")
