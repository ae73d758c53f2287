"""The benchmark's arithmetic: goals can be missed, and lost spans are noticed."""

import json
from pathlib import Path

import pytest

from sightglass.measure.overhead import FULL, GOALS, SILENT, STOCK, Result, expected_spans, judge


def rounds(throughput: float, p99: float) -> list[Result]:
    """Three rounds whose median is the given one, with an outlier on each side."""
    return [Result(throughput * factor, 1.0, p99 * factor, 1.0, 0) for factor in (0.1, 1.0, 9.0)]


@pytest.mark.parametrize(
    ("full", "silent", "stock", "met"),
    [
        ((880, 20), (1000, 10), (440, 100), [True, True, True]),
        ((879, 20), (1000, 10), (440, 100), [False, False, True]),
        ((880, 21), (1000, 10), (440, 100), [True, True, False]),
    ],
)
def test_goals_are_ratios_of_medians(
    full: tuple[float, float], silent: tuple[float, float], stock: tuple[float, float], met: list[bool]
) -> None:
    results = {FULL: rounds(*full), SILENT: rounds(*silent), STOCK: rounds(*stock)}
    assert [judge(results, goal)[1] for goal in GOALS] == met


def test_expected_spans_count_requests_and_batches(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    lines = [{"event.name": "ml.prediction", "ml.batch.size": size} for size in (1, 2, 2, 4, 4, 4, 4)]
    log.write_text("\n".join(json.dumps(line) for line in [*lines, {"event.name": "log"}]))
    assert expected_spans(log, 6) == 7 * 6 + 3
    # A service without batches has none of a batch.
    log.write_text('{"event.name": "ml.prediction"}\n')
    assert expected_spans(log, 6) == 6
