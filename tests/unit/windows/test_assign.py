"""Which window a time lies in: clocks that change, calendars, panes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from airflow_provider_eventlog.core.errors import WindowDefinitionError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.declare.windows import Hopping, Tumbling
from airflow_provider_eventlog.declare.windows_sizes import Grid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def found(window: Tumbling | Hopping, *times: datetime) -> list[list[tuple[datetime, datetime]]]:
    """The windows of each time."""
    values = np.array([(time - EPOCH) // timedelta(microseconds=1) for time in times], np.int64)
    with session(threads=1) as connection:
        placing = Placing(connection, window.grid)
        index, numbers = placing.windows(placing.panes(values))
        starts, ends = placing.bounds(numbers)
    result: list[list[tuple[datetime, datetime]]] = [[] for _ in times]
    for i, start, end in zip(index.tolist(), starts.tolist(), ends.tolist(), strict=True):
        result[i].append((EPOCH + timedelta(microseconds=start), EPOCH + timedelta(microseconds=end)))
    return result


def only(window: Tumbling, time: datetime) -> tuple[datetime, datetime]:
    ((bounds,),) = found(window, time)
    return bounds


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", (2024, 3, 31), 23),
        ("Europe/Berlin", (2024, 10, 27), 25),
        ("Europe/Berlin", (2024, 6, 1), 24),
        ("America/New_York", (2024, 3, 10), 23),
        ("Australia/Lord_Howe", (2024, 4, 7), 24.5),
        ("Africa/Cairo", (2024, 4, 26), 23),  # goes forward at midnight: the day begins at 01:00
        ("America/Havana", (2024, 11, 3), 25),  # shows midnight twice: the day begins at the first
    ],
)
def test_a_day_is_as_long_as_its_clock_says(zone: str, day: tuple[int, int, int], hours: float) -> None:
    """Days of a time zone have 23, 24, 25 or other hours, and every instant of the local date lies in them."""
    tz = ZoneInfo(zone)
    noon = datetime(*day, 12, tzinfo=tz)
    start, end = only(Tumbling("1 day", timezone=zone), noon.astimezone(UTC))
    assert end - start == timedelta(hours=hours)
    assert start == datetime(*day, tzinfo=tz).astimezone(UTC)
    probe = start
    while probe < end:
        assert probe.astimezone(tz).date() == noon.date()
        probe += timedelta(minutes=15)
    assert (start - timedelta(microseconds=1)).astimezone(tz).date() < noon.date()
    assert end.astimezone(tz).date() > noon.date()


def test_an_hour_is_an_hour_on_every_day() -> None:
    """Exact windows know no clock: each of the 25 hours of a long day is one window."""
    start = datetime(2024, 10, 26, 22, tzinfo=UTC)
    times = [start + timedelta(minutes=30 + 60 * n) for n in range(25)]
    windows = [one for (one,) in found(Tumbling("1 hour", timezone="Europe/Berlin"), *times)]
    assert windows == [(start + timedelta(hours=n), start + timedelta(hours=n + 1)) for n in range(25)]


def test_a_day_that_a_zone_left_out_has_no_time() -> None:
    """Samoa had no 30 December 2011: the 29th is followed by the 31st, and nothing lies between."""
    tz = ZoneInfo("Pacific/Apia")
    window = Tumbling("1 day", timezone="Pacific/Apia")
    before = only(window, datetime(2011, 12, 29, 12, tzinfo=tz).astimezone(UTC))
    after = only(window, datetime(2011, 12, 31, 12, tzinfo=tz).astimezone(UTC))
    assert before[1] == after[0]
    assert after[1] - after[0] == timedelta(days=1)


def test_months_quarters_and_years_are_those_of_the_calendar() -> None:
    """Leap years, months of 28 to 31 days, and both in a time zone."""
    leap = datetime(2024, 2, 29, 23, 30, tzinfo=UTC)
    utc = UTC
    assert only(Tumbling("1 month"), leap) == (datetime(2024, 2, 1, tzinfo=utc), datetime(2024, 3, 1, tzinfo=utc))
    assert only(Tumbling("1 quarter"), leap) == (datetime(2024, 1, 1, tzinfo=utc), datetime(2024, 4, 1, tzinfo=utc))
    assert only(Tumbling("1 year"), leap) == (datetime(2024, 1, 1, tzinfo=utc), datetime(2025, 1, 1, tzinfo=utc))
    tokyo = ZoneInfo("Asia/Tokyo")
    assert only(Tumbling("1 month", timezone="Asia/Tokyo"), leap) == (
        datetime(2024, 3, 1, tzinfo=tokyo),
        datetime(2024, 4, 1, tzinfo=tokyo),
    )
    assert only(Tumbling("1 month"), datetime(1969, 12, 31, tzinfo=utc)) == (
        datetime(1969, 12, 1, tzinfo=utc),
        datetime(1970, 1, 1, tzinfo=utc),
    )


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_weeks_begin_on_mondays(zone: str) -> None:
    """A week is one of the calendar; seven days are counted from the epoch, a Thursday."""
    time = datetime(2024, 3, 28, 12, tzinfo=UTC)
    start, end = only(Tumbling("1 week", timezone=zone), time)
    assert start.astimezone(ZoneInfo(zone)).strftime("%a %H:%M") == "Mon 00:00"
    assert end.astimezone(ZoneInfo(zone)).strftime("%a %H:%M") == "Mon 00:00"
    assert only(Tumbling("7 days", timezone=zone), time)[0].astimezone(ZoneInfo(zone)).strftime("%a") == "Thu"


def test_an_offset_moves_windows_in_local_time() -> None:
    """Days from 06:00 to 06:00 of the local clock; months from the 2nd; ten minutes from minute three."""
    berlin = ZoneInfo("Europe/Berlin")
    start, end = only(
        Tumbling("1 day", timezone="Europe/Berlin", offset="6 hours"), datetime(2024, 3, 31, 3, tzinfo=UTC)
    )
    assert (start, end) == (datetime(2024, 3, 30, 6, tzinfo=berlin), datetime(2024, 3, 31, 6, tzinfo=berlin))
    assert end - start == timedelta(hours=23)
    assert only(Tumbling("1 month", offset="1 day"), datetime(2024, 3, 1, tzinfo=UTC))[0].day == 2
    assert only(Tumbling("10 minutes", offset="3 minutes"), datetime(2024, 3, 1, tzinfo=UTC))[0].minute == 53


def test_bounds_belong_to_the_later_window() -> None:
    """[start, end): a microsecond decides, before the epoch as after it."""
    for edge in (datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 6, 1, 0, 5, tzinfo=UTC)):
        (before,), (after,) = found(Tumbling("5 minutes"), edge - timedelta(microseconds=1), edge)
        assert before[1] == after[0] == edge


def test_sliding_windows_share_panes() -> None:
    """Ten minutes every four: two or three windows a time, from panes of two minutes."""
    time = datetime(2024, 1, 1, 0, 9, 30, tzinfo=UTC)
    (windows,) = found(Hopping("10 minutes", "4 minutes"), time)
    assert [start.minute for start, _ in windows] == [0, 4, 8]
    (windows,) = found(Hopping("10 minutes", "4 minutes"), time + timedelta(minutes=1))
    assert [start.minute for start, _ in windows] == [4, 8]
    with session(threads=1) as connection:
        placing = Placing(connection, Hopping("10 minutes", "4 minutes").grid)
        starts, ends = placing.spans(np.arange(3))
    assert (ends - starts).tolist() == [120_000_000] * 3


def test_sliding_months_of_a_year() -> None:
    """The last twelve months, every month, in a time zone."""
    zone = "America/New_York"
    (windows,) = found(Hopping("1 year", "1 month", timezone=zone), datetime(2024, 3, 15, tzinfo=UTC))
    tz = ZoneInfo(zone)
    assert len(windows) == 12
    assert [start.astimezone(tz).strftime("%Y-%m-%d %H:%M") for start, _ in windows][::11] == [
        "2023-04-01 00:00",
        "2024-03-01 00:00",
    ]


def test_times_far_apart_cost_no_more_than_their_number() -> None:
    """A row of the year 9998 beside one of the year 2 makes no list of all days between."""
    far = [datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 12, tzinfo=UTC)]
    (first,), (last,) = found(Tumbling("1 day", timezone="Europe/Berlin"), *far)
    assert last[1] - last[0] == timedelta(days=1)
    assert first[0] <= far[0] < first[1]


def test_a_zone_that_the_engine_does_not_know_is_refused() -> None:
    """The system's time zones may be newer than the engine's: said before any row is read."""
    with session(threads=1) as connection, pytest.raises(WindowDefinitionError, match="Mars/Olympus"):
        Placing(connection, Grid("day", 1, 1, 0, 0, "Mars/Olympus"))
