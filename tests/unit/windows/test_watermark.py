"""The watermark: the formula of the design, and what it leaves open."""

from __future__ import annotations

import pytest

from airflow_provider_eventlog.core.errors import EventTimeError
from airflow_provider_eventlog.core.windows import frames, watermark
from airflow_provider_eventlog.core.windows.watermark import Seen, advance
from tests.unit.windows.folding import at, ms, table


def seen(partition: int, greatest: int | None, rows: int = 5, records: int = 5) -> Seen:
    return Seen(partition, records, rows, greatest)


EMPTY = seen(9, None, rows=0, records=0)
FILTERED = seen(8, None, rows=0)


@pytest.mark.parametrize(
    ("before", "slices", "instant", "after"),
    [
        (None, [seen(0, 100), seen(1, 80)], None, 70),
        (None, [seen(0, 100), seen(0, 90), seen(1, 80), seen(1, 85)], None, 75),
        (None, [seen(0, 100), EMPTY], 500, 90),
        (None, [seen(0, 100), FILTERED], 500, 90),
        (95, [seen(0, 100)], 500, 95),
        (95, [seen(0, 200), seen(1, None)], 500, 95),
        (None, [seen(1, None)], 500, None),
        (95, [seen(0, None), seen(0, 300)], None, 290),
        (95, [EMPTY], 500, 490),
        (95, [], 500, 490),
        (495, [], 500, 495),
        (95, [], None, 95),
        (95, [FILTERED, EMPTY], 500, 95),
        (None, [], None, None),
    ],
)
def test_the_watermark_follows_its_formula(
    before: int | None, slices: list[Seen], instant: int | None, after: int | None
) -> None:
    """The slowest partition decides, idle ones are excused, nothing unbelieved moves it, and it never goes back.

    Only a batch without a record advances it to its scheduled end.
    """
    assert advance(before, slices, 10, instant=instant, chain=True) == after


def test_batches_off_the_chain_never_move_it() -> None:
    """Neither rows nor an empty back-fill move the watermark."""
    assert advance(95, [seen(0, 1000)], 10, instant=2000, chain=False) == 95
    assert advance(None, [], 10, instant=2000, chain=False) is None
    assert watermark.processed(95, 300, chain=False) == 95


def test_a_slice_shows_its_greatest_believed_time() -> None:
    """Rows dated beyond belief do not count; times are rounded down to milliseconds."""
    rows = table([{"t": 1}, {"t": 5.0009}, {"t": 1_000_000}])
    assert watermark.look(rows, "ts", 3, 7, ms(60)) == Seen(3, 7, 3, ms(5))
    assert watermark.look(rows, "ts", 3, 7, ms(0)) == Seen(3, 7, 3, None)
    assert watermark.look(table([]), "ts", 3, 7, ms(60)) == Seen(3, 7, 0, None)
    with pytest.raises(EventTimeError, match="NULL in 1 rows"):
        watermark.look(table([{"ts": None}]), "ts", 0, 1, ms(60))


def test_by_processing_time_a_batch_is_complete_at_its_end() -> None:
    """Rows are dated just before the batch's end, which is the watermark after it."""
    end = ms(600)
    rows = frames.stamp(table([{"t": 1}, {"t": 2}]), watermark.at_end(end))
    assert (frames.times(rows, None) < end * 1000).all()
    assert watermark.processed(None, end, chain=True) == end
    assert watermark.processed(end + 5, end, chain=True) == end + 5
    with pytest.raises(EventTimeError, match="stamp them"):
        frames.times(table([{"t": 1}]), None)
    assert at(0).tzinfo is not None
