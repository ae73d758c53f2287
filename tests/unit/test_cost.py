"""The arithmetic of costs: what the stack does by itself is no cost, and nonsense is no figure."""

from dataclasses import replace

import pytest

from sightglass.clients.polling import NotYet
from sightglass.facts.errors import UserError
from sightglass.measure import cost
from sightglass.measure.cost import COUNTERS, Peaks, Reading, Waiting, by_label, costs, predicted, queued, total

METRICS = """# TYPE sent_total counter
sent_total{exporter="loki"} 3
sent_total{exporter="tempo"} 4
sent_total{exporter="tempo",other="1"} 5
# TYPE sent_total_bytes gauge
sent_total_bytes 100
"""


def reading(second: float, predictions: float, lines: float) -> Reading:
    return Reading(second, {"a": predictions}, {"lines": lines}, {"loki": lines})


IDLE = reading(100, 0, 0), reading(110, 0, 20)
"""Two a second by itself."""
BUSY = reading(110, 0, 20), reading(130, 500, 20 + 40 + 1_500)


def test_what_grows_by_itself_is_no_cost() -> None:
    (found,) = costs(IDLE, BUSY, "counters")
    assert (found.idle, found.per_thousand) == (2.0, 3_000.0)
    (twice,) = costs(IDLE, (BUSY[0], replace(BUSY[1], predictions={"a": 1_000})), "counters")
    assert twice.per_thousand == 1_500.0


def test_an_instance_that_prometheus_forgets_is_not_taken_from_the_others() -> None:
    before = replace(BUSY[0], predictions={"ended": 1_360.0, "a": 10.0})
    after = replace(BUSY[1], predictions={"a": 500.0, "begun": 10.0})
    assert predicted((before, after)) == 500.0
    assert sum(after.predictions.values()) - sum(before.predictions.values()) < 0


def test_processor_time_is_the_whole_of_it() -> None:
    (found,) = costs(IDLE, BUSY, "cpu")
    assert (found.idle, found.per_thousand) == (2.0, 3_080.0)


def test_no_predictions_and_falling_counters_are_said() -> None:
    with pytest.raises(UserError, match="No prediction was counted"):
        costs(IDLE, (BUSY[0], replace(BUSY[1], predictions={"a": 0})), "counters")
    with pytest.raises(UserError, match="lines fell from 20 to 7: something was restarted"):
        costs(IDLE, (BUSY[0], reading(130, 500, 7)), "counters")


def test_metrics_are_summed_by_their_whole_name() -> None:
    assert total(METRICS, "sent_total") == 12
    assert total(METRICS, "sent_total_bytes") == 100
    assert by_label(METRICS, "sent_total", "exporter") == {"loki": 3, "tempo": 9}
    with pytest.raises(NotYet, match="there is no sent_tota"):
        total(METRICS, "sent_tota")


def test_peaks_are_kept() -> None:
    peaks = Peaks()
    for resident, queue in ((10.0, 1.0), (30.0, 5.0), (20.0, 0.0)):
        peaks.see({"loki": resident}, {"tempo": queue})
    assert (peaks.resident, peaks.queues) == ({"loki": 30.0}, {"tempo": 5.0})


def test_queues_are_measured_when_they_fill() -> None:
    looks = [Waiting(100 * second, {"loki": max(0.0, 50_000 * (second - 2)), "tempo": 7.0}) for second in range(10)]
    assert queued(looks) == {"loki": 500_000.0, "tempo": 0.0}
    with pytest.raises(UserError, match="No log line was read"):
        queued([looks[0], looks[0]])


def test_every_server_is_started_again_also_behind_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def control(verb: str, name: str) -> bool:
        asked.append((verb, name))
        return (verb, name) != ("start", cost.KEEPERS[0])

    monkeypatch.setattr(cost, "_control", control)
    monkeypatch.setattr(cost, "load", lambda *_: None)
    with pytest.raises(UserError, match=f"^{cost.KEEPERS[0]} did not start again"):
        cost.outage(None, 1, 1)  # type: ignore[arg-type]
    assert [name for verb, name in asked if verb == "start"] == list(cost.KEEPERS)


def test_every_counter_is_of_a_server_that_is_asked() -> None:
    assert {counter.server for counter in COUNTERS} <= set(cost.PORTS)
    assert len({counter.name for counter in COUNTERS}) == len(COUNTERS)
