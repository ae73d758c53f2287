"""Generated input for what parses a caller's headers, and the fuzzing itself: it finds what is there."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ml_telemetry.context import Parent, parse_parent
from ml_telemetry.headers import InvalidHost, parse_address, parse_host
from tests.fuzz import search
from tests.fuzz.callers import HIDDEN, SHOWN, Callers
from tests.fuzz.records import PATHS, Senders
from tests.fuzz.sharing import LINES, Sharing
from tests.unit.collecting import collecting
from tests.unit.otlp import until

# Without making a failing example smaller, which takes minutes.
PHASES = (Phase.explicit, Phase.generate)
seeded = settings(derandomize=True, database=None, deadline=None, max_examples=500, phases=PHASES)
HEX = st.text("0123456789abcdef", min_size=0, max_size=40)
TRACEPARENT = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda version, trace, span, flags, more: f"{version}-{trace}-{span}-{flags}{more}".encode(),
        st.sampled_from(["00", "01", "cc", "ff", "0", "0x", ""]),
        st.one_of(HEX, st.text("0123456789abcdef", min_size=32, max_size=32), st.just("0" * 32)),
        st.one_of(HEX, st.text("0123456789abcdef", min_size=16, max_size=16), st.just("0" * 16)),
        st.sampled_from(["00", "01", "ff", "0g", "1", ""]),
        st.sampled_from(["", "", "-", "-more", " ", "\n"]),
    ),
)
MEMBER = st.text(st.characters(max_codepoint=255), max_size=300)
KEY = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9)
VALID = st.builds(lambda key, size: f"{key}={'v' * size}".encode(), KEY, st.integers(1, 9))
LARGE = st.builds(lambda key, size: f"{key}={'v' * size}".encode(), KEY, st.integers(99, 200))
TRACESTATE = st.one_of(
    st.none(),
    st.binary(max_size=600),
    st.lists(st.builds("{}={}".format, MEMBER, MEMBER), max_size=40).map(lambda all_: ",".join(all_).encode("latin-1")),
    st.lists(VALID, max_size=40).map(b",".join),
    st.lists(LARGE, min_size=3, max_size=9).map(b",".join),
)


@seeded
@given(TRACEPARENT)
def test_any_traceparent_is_read_as_the_sdk_reads_it(traceparent: bytes) -> None:
    found = parse_parent(traceparent, None)
    carrier = {"traceparent": traceparent.decode("latin-1")}
    expected = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    if found is None:
        # The SDK takes what surrounds a header; nothing that it takes otherwise is refused.
        assert not expected.is_valid or traceparent.strip() != traceparent
        return
    assert re.fullmatch("[0-9a-f]{32}", found.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", found.span_id)
    assert (int(found.trace_id, 16), int(found.span_id, 16)) == (expected.trace_id, expected.span_id)
    assert found.sampled == expected.trace_flags.sampled


@seeded
@given(TRACESTATE)
def test_any_tracestate_is_bounded_and_loses_the_parent_to_nobody(tracestate: bytes | None) -> None:
    found = parse_parent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", tracestate)
    assert found is not None
    assert found.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert len(found.trace_state) <= 512
    assert re.fullmatch(r"[ -~]*", found.trace_state)


def test_generated_contexts_are_of_both_kinds() -> None:
    kinds: set[type] = set()

    @seeded
    @given(TRACEPARENT)
    def look(traceparent: bytes) -> None:
        kinds.add(type(parse_parent(traceparent, None)))

    look()
    assert kinds == {Parent, type(None)}


PORT = st.one_of(st.integers(-9, 70_000).map(str), st.text("0123456789", max_size=300), st.text(max_size=4))
NAME = st.one_of(
    st.from_regex(r"[A-Za-z0-9._~%!-]{0,300}", fullmatch=True),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map("[{}]".format),
    st.text("0123456789abcdefg:.%[]", max_size=50).map("[{}]".format),
    st.text(st.characters(max_codepoint=255), max_size=80),
)
HOST = st.one_of(
    st.binary(max_size=300),
    NAME.map(lambda name: name.encode("utf-8")),
    st.builds(lambda name, port: f"{name}:{port}".encode(), NAME, PORT),
)


@seeded
@given(HOST)
def test_any_host_is_a_bounded_name_with_a_port_of_a_machine_or_none(host: bytes) -> None:
    try:
        name, port = parse_host(host)
    except InvalidHost:
        return
    text = host.decode("ascii")
    assert len(text) <= 272
    assert port is None or 0 < port < 65_536
    shown, _, digits = text.rpartition(":") if re.search(r":[0-9]*$", text.rpartition("]")[2]) else (text, "", "")
    assert port == (int(digits) if digits and 0 < int(digits) < 65_536 else None)
    if shown.startswith("["):
        assert shown == f"[{name}]"
        ipaddress.IPv6Address(name)
    else:
        assert shown == name
        assert re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=%-]*", name)


def test_generated_hosts_are_of_every_kind() -> None:
    kinds: set[tuple[bool, bool] | None] = set()

    @seeded
    @given(HOST)
    def look(host: bytes) -> None:
        try:
            name, port = parse_host(host)
        except InvalidHost:
            kinds.add(None)
        else:
            kinds.add((":" in name, port is None))

    look()
    assert kinds == {None, (True, True), (True, False), (False, True), (False, False)}


ADDRESS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
    st.builds("{}{}{}".format, st.ip_addresses(), st.sampled_from(["%", ":", "/", " ", "\n"]), st.text(max_size=80)),
    st.text("0123456789abcdef:.", max_size=90),
    st.text(max_size=200),
)


@seeded
@given(ADDRESS)
def test_any_client_is_an_address_or_nobody(client: str) -> None:
    found = parse_address(client)
    bare = client.partition("%")[0]
    try:
        expected = str(ipaddress.ip_address(bare))
    except ValueError:
        expected = ""
    assert found == expected
    assert len(found) <= 45


TEXT = st.text(max_size=60)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUE = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)), max_leaves=8
)
ID = st.one_of(HEX, st.text("0123456789abcdef", min_size=32, max_size=32), st.sampled_from(["0" * 32, "A" * 32]))
STAMP = st.one_of(
    st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")),
    st.from_regex(r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,20}Z?", fullmatch=True),
)
FIELDS = {
    "timestamp": st.one_of(STAMP, VALUE),
    "severity": st.one_of(st.sampled_from(["INFO", "warning", "fatal", "no"]), VALUE),
    "level": st.one_of(st.sampled_from(["ERROR", "debug"]), VALUE),
    "trace_id": st.one_of(ID, VALUE),
    "span_id": st.one_of(ID, VALUE),
    "trace_flags": st.one_of(st.sampled_from(["01", "00", "ff", "-1"]), VALUE),
    "event.name": st.one_of(TEXT, VALUE),
    "service_name": TEXT,
    "sightglass.refused": TEXT,
    "message": VALUE,
}
OBJECT = st.fixed_dictionaries({}, optional=FIELDS).map(lambda fields: json.dumps(fields, ensure_ascii=False))
DAMAGED = st.builds(
    lambda text, at, more: text[: at % (len(text) + 1)] + more + text[at % (len(text) + 1) :],
    OBJECT,
    st.integers(0, 400),
    st.sampled_from(["", "\\", '"', "{", "]", "\\u0000", "\\ud800", "1e999", "\x00", "}{", "," * 50, "[" * 500]),
)
LINE = st.one_of(OBJECT, DAMAGED, VALUE.map(json.dumps), st.text(max_size=200))
LEVELS = {"debug", "info", "warn", "error", "fatal", "unknown"}
MASKED = re.compile(r"[0-9]{13}|@|[%0]40|bearer|AKIA|ASIA", re.IGNORECASE)
"""Without any of these nothing in a line is masked."""
SEARCHABLE = {"event.name", "error.type", "level", "late", "sightglass.changed", "sightglass.time"}


def utf8(text: str) -> str:
    """What of a text a sender can send at all."""
    return text.encode(errors="replace").decode()


@pytest.fixture(scope="module")
def generated() -> list[str]:
    """Lines, a few hundred of all kinds."""
    lines: list[str] = []

    @settings(seeded, max_examples=400)
    @given(LINE)
    def keep(line: str) -> None:
        lines.append(utf8(line))

    keep()
    return [*lines, "x" * 300_000, json.dumps({"event.name": "y" * 300_000}), json.dumps({"trace_id": ["z" * 300_000]})]


def test_any_line_becomes_one_bounded_record_of_its_own_service(
    programs: Mapping[str, Path], tmp_path: Path, generated: list[str]
) -> None:
    assert sum(line.startswith("{") for line in generated) > 100
    with collecting(programs["otelcol"], tmp_path) as collector:
        for start in range(0, len(generated), 50):
            some = dict(enumerate(generated[start : start + 50], start))
            assert collector.push_each({f"g{number}": line for number, line in some.items()}) == 204
        logs = collector.receiver.logs
        until(lambda: len(logs) >= len(generated), "a record of each line")
    found = {logged.resource["service.name"]: logged for logged in logs}
    assert len(logs) == len(found) == len(generated)
    for number, line in enumerate(generated):
        logged = found[f"g{number}"]
        assert logged.attributes["level"] in LEVELS
        assert logged.record.severity_text.lower() == logged.attributes["level"].replace("unknown", "")
        assert set(logged.attributes) <= SEARCHABLE
        assert len(logged.body.encode()) <= 256_000
        assert line.startswith(logged.body) or MASKED.search(line)
        for known, size in ((logged.record.trace_id, 16), (logged.record.span_id, 8)):
            assert known == b"" or (len(known) == size and known.hex() in line)
        assert 0 < logged.record.time_unix_nano < time.time_ns() + 300 * 10**9
    assert "\terror\t" not in (tmp_path / "collector.out").read_text()


def test_equal_seeds_make_equal_requests_and_others_do_not() -> None:
    one, again, other = (Callers(seed, "hidden", "shown") for seed in (1, 1, 2))
    assert [one.request(n) for n in range(200)] == [again.request(n) for n in range(200)]
    assert [one.request(n) for n in range(200)] != [other.request(n) for n in range(200)]


def test_every_kind_of_request_and_every_spot_is_made() -> None:
    callers = Callers(1, "hidden", "shown")
    kinds = {callers.request(number).kind for number in range(4_000)}
    spots = {*(f"hidden: {spot}" for spot in HIDDEN), *(f"shown: {spot}" for spot in SHOWN)}
    assert kinds == {"corpus", "json", "damaged", "noise", *spots}
    senders = Senders(1, "fuzz", "mail@example.org", Sharing("word"))
    sent = [senders.request(number) for number in range(400)]
    assert {each.signal for each in sent} == {*PATHS, LINES}
    assert {each.good.signal for each in sent if each.good} == {*PATHS, LINES}
    assert all(each.good.name.encode() in each.body for each in sent if each.good)


def test_no_two_hostile_points_are_of_one_series() -> None:
    senders = Senders(1, "fuzz", "mail@example.org", Sharing("word"))
    bodies = [sent.body for sent in map(senders.request, range(2_000)) if sent.signal == "metrics"]
    points = re.findall(rb'"point", "value": {"intValue": "[0-9]+"', b"".join(bodies))
    assert len(points) > 100
    assert len(set(points)) == len(points)


@pytest.mark.parametrize("before", [0, search.LARGEST - 3])
def test_search_finds_a_word_in_a_file_also_across_its_parts(tmp_path: Path, before: int) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "chunk"
    with file.open("wb") as opened:
        opened.truncate(before)
        opened.seek(before)
        opened.write(b"..needle..")
    assert list(search.files(tmp_path, "needle")) == ["data/chunk"]
    assert list(search.files(tmp_path, "haystack")) == []
