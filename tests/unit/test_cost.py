"""The arithmetic of costs: what the stack does by itself is no cost, and nonsense is no figure."""

from dataclasses import replace

import pytest

from load_testing import cost
from load_testing.cost import COUNTERS, Peaks, Reading, Waiting, blocks, by_label, chunks, costs, queued, total
from sightglass.errors import UserError
from sightglass.polling import NotYet

METRICS = """# TYPE sent_total counter
sent_total{exporter="loki"} 3
sent_total{exporter="tempo"} 4
sent_total{exporter="tempo",other="1"} 5
# TYPE sent_total_bytes gauge
sent_total_bytes 100
"""


def reading(second: float, predictions: float, lines: float) -> Reading:
    return Reading(second, predictions, {"lines": lines}, {"bucket": lines}, {"loki": lines})


IDLE = reading(100, 0, 0), reading(110, 0, 20)
"""Two a second by itself."""
BUSY = reading(110, 0, 20), reading(130, 500, 20 + 40 + 1_500)


@pytest.mark.parametrize("of", ["counters", "stored"])
def test_what_grows_by_itself_is_no_cost(of: str) -> None:
    (found,) = costs(IDLE, BUSY, of)
    assert (found.idle, found.per_thousand) == (2.0, 3_000.0)
    (twice,) = costs(IDLE, (BUSY[0], replace(BUSY[1], predictions=1_000)), of)
    assert twice.per_thousand == 1_500.0


def test_processor_time_is_the_whole_of_it() -> None:
    (found,) = costs(IDLE, BUSY, "cpu")
    assert (found.idle, found.per_thousand) == (2.0, 3_080.0)


def test_no_predictions_and_falling_counters_are_said() -> None:
    with pytest.raises(UserError, match="No prediction was counted"):
        costs(IDLE, (BUSY[0], replace(BUSY[1], predictions=0)), "counters")
    with pytest.raises(UserError, match="lines fell from 20 to 7: something was restarted"):
        costs(IDLE, (BUSY[0], reading(130, 500, 7)), "counters")


def test_what_is_stored_may_become_less_without_load() -> None:
    smaller = IDLE[0], replace(IDLE[1], stored={"bucket": -5.0})
    (found,) = costs(smaller, BUSY, "stored")
    assert (found.idle, found.per_thousand) == (0.0, 3_080.0)
    with pytest.raises(UserError, match="bucket fell"):
        costs(IDLE, (BUSY[0], replace(BUSY[1], stored={"bucket": 0.0})), "stored")


def test_metrics_are_summed_by_their_whole_name() -> None:
    assert total(METRICS, "sent_total") == 12
    assert total(METRICS, "sent_total_bytes") == 100
    assert by_label(METRICS, "sent_total", "exporter") == {"loki": 3, "tempo": 9}
    with pytest.raises(NotYet, match="there is no sent_tota"):
        total(METRICS, "sent_tota")


def test_a_block_that_is_part_of_another_does_not_count_twice() -> None:
    objects = [("t/1/data", 100), ("t/1/meta.json", 1), ("t/2/data", 100), ("t/2/meta.json", 1), ("t/12/data", 210)]
    assert blocks(objects) == 412
    assert blocks([*objects[:3], ("t/2/meta.compacted.json", 1), objects[4]]) == 311
    # Only that block, none whose name begins like it.
    assert blocks([*objects, ("t/1/meta.compacted.json", 1)]) == 311


def test_the_index_is_no_chunk() -> None:
    assert chunks([("fake/a/1", 10), ("fake/b/2", 5), ("index/index_1/x.tsdb.gz", 100)]) == 15


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


def test_every_counter_is_of_a_server_that_is_asked() -> None:
    assert {counter.server for counter in COUNTERS} <= set(cost.PORTS)
    assert len({counter.name for counter in COUNTERS}) == len(COUNTERS)
