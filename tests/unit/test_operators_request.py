"""From a DAG run to what it asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_eventlog.core.errors import DeclarationError, RequestError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import Act, RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from airflow_provider_eventlog.operators.request import Planning

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def pipeline(name: str = "p", topic: str = "t") -> Pipeline:
    return Pipeline(name, stream=Stream(topic), outputs=[Rows(DuckDB("x.duckdb", table=name))])


def context(
    kind: str = "scheduled",
    start: datetime | None = T0,
    end: datetime | None = T0 + HOUR,
    *,
    catchup: bool = False,
    start_date: datetime | None = T0,
    tasks: tuple[Any, ...] = (),
    **params: Any,
) -> Any:
    run = SimpleNamespace(
        dag_id="d", run_id="r", run_type=kind, data_interval_start=start, data_interval_end=end, conf={},
        triggering_user_name="eve" if kind == "manual" else None,
    )  # fmt: skip
    dag = SimpleNamespace(catchup=catchup, start_date=start_date, tasks=tasks)
    return {"dag_run": run, "dag": dag, "params": {f"eventlog_{k}": v for k, v in params.items()}}


INTERVAL = RunRequest(mode="interval", interval=(ms(T0), ms(T0 + HOUR)), gap="absorb", first=True)
SINCE = RunRequest(mode="since_last")
TABLE = [
    # what Airflow says, how the task plans, what comes out
    (context(), Planning(), INTERVAL),
    (context("backfill"), Planning(read="since_last"), INTERVAL),
    (context(what="offsets", offsets="0:0-1"), Planning(), INTERVAL),
    (context("backfill", what="since_last"), Planning(), INTERVAL),
    (context(), Planning(read="since_last"), SINCE),
    (context(start=None, end=None), Planning(read="since_last"), SINCE),
    (context("manual"), Planning(), SINCE),
    (context("manual", what="auto"), Planning(), SINCE),
    (context("asset_triggered", None, None), Planning(), SINCE),
    (context("operator_triggered", what="since_last"), Planning(), SINCE),
    (context("manual"), Planning(max_batches_per_run=3), RunRequest(mode="since_last", max_batches=3)),
    (
        context("manual", what="offsets", offsets="1:5-9, 0:0-3"),
        Planning(parallelism=7),
        RunRequest(mode="offsets", ranges=(OffsetRange(0, 0, 3), OffsetRange(1, 5, 9)), parallelism=7),
    ),
    (
        context("manual", what="interval", **{"from": "2026-01-01T00:00:00", "to": "2026-01-01T02:00:00+01:00"}),
        Planning(gap="hole"),
        RunRequest(mode="interval", interval=(ms(T0), ms(T0 + HOUR)), gap="hole"),
    ),
    (
        context("manual", what="redrive", reason="mended", codes="not_json, too_deep", checks="small", offsets="0:1-3"),
        Planning(),
        RunRequest(
            "redrive",
            selection=Selection(None, ("not_json", "too_deep"), ("small",), (OffsetRange(0, 1, 3),)),
            who="eve",
            why="mended",
        ),
    ),
    (
        context("manual", what="redrive", reason="again", batch=" b1 ", recompute=True),
        Planning(),
        RunRequest("redrive", selection=Selection("b1"), recompute=True, who="eve", why="again"),
    ),
    (
        context("manual", what="release", reason="known", batch="b1"),
        Planning(),
        RunRequest("resume", act=Act("release", "b1"), who="eve", why="known"),
    ),
    (
        context("manual", what="skip", reason="lost", **{"from": "2026-01-01T00:00:00"}),
        Planning(),
        RunRequest("resume", act=Act("skip", hole=ms(T0)), who="eve", why="lost"),
    ),
    (context("manual", what="resume"), Planning(), RunRequest("resume", who="eve")),
]


@pytest.mark.parametrize(("given", "planning", "wanted"), TABLE)
def test_what_a_run_asks_for(given: Any, planning: Planning, wanted: RunRequest) -> None:
    """Scheduled and back-fill runs go by their interval whatever the params say; all others by the params."""
    assert planning.request(given, pipeline()) == wanted


@pytest.mark.parametrize(
    ("catchup", "gap", "wanted"),
    [(True, None, "hole"), (False, None, "absorb"), (True, "absorb", "absorb"), (False, "hole", "hole")],
)
def test_gap_follows_catchup_unless_given(catchup: bool, gap: str | None, wanted: str) -> None:
    """Where Airflow leaves intervals out the next one absorbs them; where it catches up each run has its own."""
    assert Planning(gap=gap).request(context(catchup=catchup), pipeline()).gap == wanted


@pytest.mark.parametrize(
    ("start", "start_date", "first"),
    [
        (T0, T0, True),
        (T0, T0 - timedelta(minutes=30), True),
        (T0, T0 - HOUR, False),
        (T0 + HOUR, T0, False),
        (T0, T0 + HOUR, False),
        (T0, None, False),
    ],
)
def test_first_interval_of_the_schedule(start: datetime, start_date: datetime | None, first: bool) -> None:
    """Only the earliest interval that begins at or after the DAG's start date is the schedule's first."""
    given = context(start=start, end=start + HOUR, start_date=start_date)
    assert Planning().request(given, pipeline()).first is first


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (context(start=T0, end=T0), "CronDataIntervalTimetable"),
        (context(start=None, end=None), "CronDataIntervalTimetable"),
        (context("manual", what="everything"), "eventlog_what"),
        (context("manual", what="offsets"), "needs eventlog_offsets"),
        (context("manual", what="interval", to="2026-01-01T00:00:00Z"), "needs eventlog_from"),
        (context("manual", offsets="0:0-1"), "eventlog_offsets is given, but eventlog_what is auto"),
        (context("manual", what="offsets", offsets="0:9-1"), "starts after its end"),
        (context("manual", what="redrive"), "needs eventlog_reason"),
        (context("manual", what="redrive", reason=" "), "needs eventlog_reason"),
        (context("manual", what="release", reason="known"), "needs eventlog_batch"),
        (context("manual", what="skip", reason="known"), "exactly one of eventlog_batch and eventlog_from"),
        (context("manual", what="resume", batch="b"), "eventlog_batch is given, but eventlog_what is resume"),
        (context("manual", what="release", batch="b", reason="r", recompute=True), "use it with interval, offsets, re"),
        (context("manual", what="interval", **{"from": "yesterday", "to": "2026"}), "ISO 8601"),
        (
            context("manual", what="interval", **{"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
            "must lie before",
        ),
    ],
)
def test_a_request_without_meaning_is_refused(given: Any, says: str) -> None:
    """What cannot be understood is refused with a message that says what to write."""
    with pytest.raises(RequestError, match=says):
        Planning().request(given, pipeline())


def test_other_pipelines_are_left_out() -> None:
    """With eventlog_pipeline a manual run skips every other pipeline of the DAG; scheduled runs ignore it."""
    with pytest.raises(AirflowSkipException, match="leaves pipeline p out"):
        Planning().request(context("manual", pipeline="q"), pipeline())
    assert Planning().request(context("manual", pipeline="p"), pipeline()) == SINCE
    assert Planning().request(context(pipeline="q"), pipeline()) == INTERVAL


def test_offsets_of_several_streams_need_a_pipeline() -> None:
    """Offsets mean one topic: in a DAG over several streams the run must say which pipeline they are for."""
    tasks = tuple(SimpleNamespace(planning=Planning(), pipeline=pipeline(n, t)) for n, t in (("p", "t"), ("q", "u")))
    given = {"what": "offsets", "offsets": "0:0-1"}
    with pytest.raises(RequestError, match="eventlog_pipeline"):
        Planning().request(context("manual", tasks=tasks, **given), pipeline())
    assert Planning().request(context("manual", tasks=tasks, pipeline="p", **given), pipeline()).mode == "offsets"


@pytest.mark.parametrize(
    "wrong",
    [{"read": "all"}, {"gap": "fill"}, {"parallelism": 0}, {"parallelism": 513}, {"max_batches_per_run": 0}],
)
def test_planning_arguments_are_checked_at_parse(wrong: dict[str, Any]) -> None:
    """A malformed argument is a DAG import error, not a failed run."""
    with pytest.raises(DeclarationError):
        Planning(**wrong)
