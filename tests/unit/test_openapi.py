"""The API's description is committed, current, and says every error."""

import json

from text_classifier import openapi
from text_classifier.declaration import CONTRACT
from text_classifier.http import FAILURES

STALE = "run `make generate`"


def test_committed_document_is_current() -> None:
    assert openapi.FILE.read_text() == openapi.text(), STALE
    assert openapi.Served().asdict() == openapi.document()


def test_every_error_is_described_at_its_status() -> None:
    described = {reason for reasons in openapi.REASONS.values() for reason in reasons}
    # Whoever closed the connection gets no answer.
    assert set(CONTRACT.reasons) - {"client_disconnected"} <= described
    assert {(status, failure.reason) for status, failure in FAILURES.items()} <= {
        (status, reason) for status, reasons in openapi.REASONS.items() for reason in reasons
    }


def test_every_reference_leads_to_a_schema() -> None:
    document = openapi.document()
    named = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert named == set(document["components"]["schemas"])
