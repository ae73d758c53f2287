"""One bad item costs itself and nobody else's, through the real servers."""

from dataclasses import replace

import pytest

from sightglass.measure import bad_telemetry, neighbours
from sightglass.measure.neighbours import Outcome, Row, Stack
from tests.integration.running import Running

WAIT = 45.0
REQUESTS = 2


@pytest.fixture(scope="module")
def where(stack: Running) -> Stack:
    return Stack.of(stack.target, stack.settings.url("collector_loki"))


@pytest.fixture(scope="module")
def rows(where: Stack) -> list[Row]:
    return neighbours.send(where, bad_telemetry.SHAPES, REQUESTS)


@pytest.fixture(scope="module")
def outcomes(where: Stack, rows: list[Row]) -> dict[tuple[str, str], Outcome]:
    found = neighbours.look(where, rows, WAIT)
    return {(outcome.row.shape.signal, outcome.row.shape.name): outcome for outcome in found}


@pytest.mark.parametrize(("signal", "name"), [(shape.signal, shape.name) for shape in bad_telemetry.SHAPES])
def test_a_bad_item_costs_only_itself(
    outcomes: dict[tuple[str, str], Outcome], signal: bad_telemetry.Signal, name: str
) -> None:
    outcome = outcomes[signal, name]
    assert outcome.lost == 0
    assert outcome.problem == ""


@pytest.mark.parametrize("signal", ["metrics", "traces", "logs", "lines"])
def test_what_was_never_sent_is_missed(
    where: Stack, outcomes: dict[tuple[str, str], Outcome], signal: bad_telemetry.Signal
) -> None:
    """The twin: a request that nobody sent is found missing, good ones and bad."""
    row = next(each.row for each in outcomes.values() if each.row.shape.signal == signal and each.row.shape.reason)
    never = replace(row.places[0], marker="never", trace_id="f" * 32)
    (outcome,) = neighbours.look(where, [replace(row, places=[*row.places, never])], 0)
    assert outcome.lost > 0
    assert not outcome.good
