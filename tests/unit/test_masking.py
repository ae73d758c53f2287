"""The Collector masks by the policy of the telemetry's package: its statements are made from it, and mask the same."""

import secrets
from pathlib import Path

import pytest

from ml_telemetry import redaction
from sightglass.facts import masking
from tests.unit.collecting import Collecting, attributes, attributes_of
from tests.unit.test_collector_records import FIGURES, SECRETS, collector, sent

__all__ = ["collector"]
TEXTS = [
    *SECRETS.values(),
    *(f"it is {secret}, and so on" for secret in SECRETS.values()),
    *(text for text in FIGURES.values() if isinstance(text, str)),
    "x@y",
    "bearer short",
    "no secret at all",
]


def test_the_collectors_statements_are_those_of_the_policy(tmp_path: Path) -> None:
    written = masking.FILE.read_text()
    assert masking.text(written) == written, "run `make generate`"
    copy = tmp_path / "collector.yaml"
    copy.write_text(written.replace("(?i:bearer)(?:\\\\s", "(?i:carrier)(?:\\\\s"))
    assert masking.write(copy)
    assert copy.read_text() == written


def test_a_statement_that_is_missing_is_named() -> None:
    lines = masking.FILE.read_text().splitlines(keepends=True)
    line = next(line for line in lines if 'replace_all_patterns(attributes, "value"' in line)
    with pytest.raises(ValueError, match="has 5 lines that mask, and the policy has 6"):
        masking.text(masking.FILE.read_text().replace(line, "", 1))


def test_the_collector_and_the_package_mask_the_same(collector: Collecting) -> None:
    names = [f"n{number}" for number in range(len(TEXTS))]
    given = dict(zip(names, TEXTS, strict=True))
    found = sent(collector, attributes=attributes(given), body={"stringValue": secrets.token_hex(8)})
    kept = attributes_of(found.record)
    assert [kept[name] for name in names] == [redaction.text(text) for text in TEXTS]
