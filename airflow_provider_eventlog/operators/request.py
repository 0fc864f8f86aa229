"""From a DAG run to what it asks for: interval, what is new, explicit offsets, or a decision and what it lets pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_eventlog.core.errors import DeclarationError, RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.requests import GAPS, Act, RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    from airflow.sdk import Context

READS = ("interval", "since_last")
WHAT, OFFSETS, FROM, TO, RECOMPUTE, PIPELINE = (
    "eventlog_what",
    "eventlog_offsets",
    "eventlog_from",
    "eventlog_to",
    "eventlog_recompute",
    "eventlog_pipeline",
)
BATCH, CODES, CHECKS, REASON = "eventlog_batch", "eventlog_codes", "eventlog_checks", "eventlog_reason"


@dataclass(frozen=True, slots=True)
class What:
    """What a manual run may be told to do: which params it needs, and which it reads besides.

    one_of  of these exactly one is needed
    """

    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()


WHATS: Mapping[str, What] = {
    "auto": What(),
    "since_last": What(),
    "interval": What((FROM, TO), (RECOMPUTE,)),
    "offsets": What((OFFSETS,), (RECOMPUTE,)),
    "redrive": What((REASON,), (BATCH, CODES, CHECKS, OFFSETS, RECOMPUTE)),
    "release": What((BATCH, REASON)),
    "skip": What((REASON,), one_of=(BATCH, FROM)),
    "resume": What(),
}


@dataclass(frozen=True, slots=True)
class Planning:
    """How a task plans; raises DeclarationError for values without meaning.

    read                  what the schedule means: "interval" or "since_last"
    gap                   "absorb", "hole", or None: hole where the DAG has catchup, else absorb
    parallelism           into at most how many groups a run's slices are packed, 1 to 512
    max_batches_per_run   since_last takes at most so many batches; None: no bound
    """

    read: str = "interval"
    gap: str | None = None
    parallelism: int = 4
    max_batches_per_run: int | None = None

    def __post_init__(self) -> None:
        if self.read not in READS:
            raise DeclarationError(f"read={printable(self.read)} is not one of {', '.join(READS)}.")
        if self.gap is not None and self.gap not in GAPS:
            raise DeclarationError(f"gap={printable(self.gap)} is not one of {', '.join(GAPS)}.")
        if type(self.parallelism) is not int or not 1 <= self.parallelism <= 512:
            raise DeclarationError(f"parallelism={printable(self.parallelism)} must be a whole number from 1 to 512.")
        most = self.max_batches_per_run
        if most is not None and (type(most) is not int or most < 1):
            raise DeclarationError(f"max_batches_per_run={printable(most)} must be a whole number from 1.")

    def request(self, context: Context, pipeline: Pipeline) -> RunRequest:
        """What the run of `context` asks of `pipeline`.

        Scheduled and native back-fill runs take their data interval (scheduled ones, with read="since_last", what
        came since the last batch), whatever the params say. Every other run goes by the Dag params: `eventlog_what`
        auto or since_last, interval with `eventlog_from` and `eventlog_to`, offsets with `eventlog_offsets`; the
        last two with `eventlog_recompute` for new generations of what was computed already. redrive, release and skip
        are decided in the name of the user who made the run, for `eventlog_reason`; resume goes on with what was left.
        Raises RequestError; AirflowSkipException if `eventlog_pipeline` names another pipeline.
        """
        kind = _text(getattr(context["dag_run"], "run_type", None)) or "manual"
        if kind == "backfill" or (kind == "scheduled" and self.read == "interval"):
            return self._by_interval(context)
        if kind == "scheduled":
            return self._since_last()
        return self._by_params(context, pipeline)

    def _by_params(self, context: Context, pipeline: Pipeline) -> RunRequest:
        params: Mapping[str, Any] = context.get("params") or {}
        only = params.get(PIPELINE)
        if only and only != pipeline.name:
            raise AirflowSkipException(f"{PIPELINE}={only}: this run leaves pipeline {pipeline.name} out.")
        what = params.get(WHAT) or "auto"
        _refuse_params(what, params)
        recompute = params.get(RECOMPUTE) or False
        if what == "offsets" or params.get(OFFSETS) or params.get(BATCH):
            _refuse_ambiguous(context, only)
        common: dict[str, Any] = {"parallelism": self.parallelism, "gap": self._gap(context)}
        if what == "offsets":
            ranges = parse_ranges(str(params[OFFSETS]))
            return RunRequest(mode="offsets", ranges=ranges, recompute=recompute, **common)
        if what == "interval":
            interval = _ordered(_instant(FROM, params[FROM]), _instant(TO, params[TO]))
            return RunRequest(mode="interval", interval=interval, recompute=recompute, **common)
        if what in ("auto", "since_last"):
            return self._since_last()
        told: dict[str, Any] = {"who": _user(context), "why": str(params.get(REASON) or "")}
        if what == "redrive":
            return RunRequest(mode="redrive", selection=_selection(params), recompute=recompute, **told, **common)
        act = None
        if what != "resume":
            hole = _instant(FROM, params[FROM]) if params.get(FROM) else None
            act = Act(what, str(params[BATCH]).strip() if params.get(BATCH) else None, hole)
        return RunRequest(mode="resume", act=act, **told, **common)

    def _since_last(self) -> RunRequest:
        return RunRequest(mode="since_last", max_batches=self.max_batches_per_run, parallelism=self.parallelism)

    def _by_interval(self, context: Context) -> RunRequest:
        run = context["dag_run"]
        start, end = getattr(run, "data_interval_start", None), getattr(run, "data_interval_end", None)
        if start is None or end is None:
            raise RequestError(
                f"Run {run.run_id!r} has no data interval; use CronDataIntervalTimetable as the DAG's schedule, or "
                f'read="since_last".'
            )
        if start >= end:
            raise RequestError(
                f"The data interval of run {run.run_id!r} is empty: it starts and ends at {start.isoformat()}. In "
                f'Airflow 3 a cron text such as "@hourly" gives runs without an interval; write schedule='
                f'CronDataIntervalTimetable("@hourly", timezone="UTC"), or read="since_last".'
            )
        first = getattr(context.get("dag"), "start_date", None)
        return RunRequest(
            mode="interval",
            interval=(_milliseconds(start), _milliseconds(end)),
            gap=self._gap(context),
            first=first is not None and start - (end - start) < first <= start,
            parallelism=self.parallelism,
        )

    def _gap(self, context: Context) -> str:
        # Without catchup Airflow leaves intervals out after a pause, and nobody would fill the hole.
        return self.gap or ("hole" if getattr(context.get("dag"), "catchup", False) else "absorb")


def _refuse_params(what: object, params: Mapping[str, Any]) -> None:
    """Raise RequestError for a word that means nothing, and for params that are missing or not read."""
    if not isinstance(what, str) or what not in WHATS:
        raise RequestError(f"{WHAT}={printable(what)} is not one of {', '.join(WHATS)}.")
    wanted = WHATS[what]
    for name in wanted.needs:
        if not str(params.get(name) or "").strip():
            raise RequestError(f"{WHAT}={what} needs {name}; give it as a Dag param of the run.")
    if wanted.one_of and sum(bool(params.get(name)) for name in wanted.one_of) != 1:
        raise RequestError(f"{WHAT}={what} needs exactly one of {' and '.join(wanted.one_of)}; nothing was planned.")
    read = {*wanted.needs, *wanted.reads, *wanted.one_of}
    for name in (OFFSETS, FROM, TO, BATCH, CODES, CHECKS, REASON):
        if params.get(name) and name not in read:
            raise RequestError(f"{name} is given, but {WHAT} is {what}, which does not read it. Nothing was planned.")
    recompute = params.get(RECOMPUTE) or False
    if not isinstance(recompute, bool):
        raise RequestError(f"{RECOMPUTE}={printable(recompute, 60)} must be true or false.")
    if recompute and RECOMPUTE not in read:
        users = [name for name, one in WHATS.items() if RECOMPUTE in one.reads]
        raise RequestError(
            f"{RECOMPUTE} is given, but {WHAT} is {what}, which takes what was not computed yet; use it with "
            f"{', '.join(users)}. Nothing was planned."
        )


def _selection(params: Mapping[str, Any]) -> Selection:
    """Which quarantined rows the params mean."""
    batch = str(params[BATCH]).strip() if params.get(BATCH) else None
    ranges = parse_ranges(str(params[OFFSETS])) if params.get(OFFSETS) else ()
    codes, checks = ([w for w in str(params.get(n) or "").replace(",", " ").split() if w] for n in (CODES, CHECKS))
    return Selection(batch, tuple(codes), tuple(checks), ranges)


def _user(context: Context) -> str:
    """Who made the run, as Airflow knows them; for one that nobody made by hand, the run itself."""
    run = context["dag_run"]
    return str(getattr(run, "triggering_user_name", None) or f"run {run.run_id}")


def pipelines_of(tasks: Iterable[Any]) -> list[Pipeline]:
    """The pipelines that these tasks plan, in order of their names."""
    found = {t.pipeline.name: t.pipeline for t in tasks if isinstance(getattr(t, "planning", None), Planning)}
    return [found[name] for name in sorted(found)]


def _refuse_ambiguous(context: Context, only: object) -> None:
    dag = context.get("dag")
    streams = {p.stream.name for p in pipelines_of(dag.tasks)} if dag is not None and not only else set()
    if len(streams) > 1:
        raise RequestError(
            f"This DAG reads several streams ({', '.join(sorted(streams))}) and offsets and batches belong to one; "
            f"name the pipeline with {PIPELINE}."
        )


def _text(value: object) -> str:
    return "" if value is None else str(getattr(value, "value", value))


def _milliseconds(instant: datetime) -> int:
    # By division of whole numbers: a float of seconds loses the last millisecond of some instants.
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _instant(name: str, value: object) -> int:
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise RequestError(
            f"{name}={printable(value, 60)} is not a time; write ISO 8601, for example 2013-01-01T00:00:00Z."
        ) from None
    return _milliseconds(found if found.tzinfo else found.replace(tzinfo=UTC))


def _ordered(start: int, end: int) -> tuple[int, int]:
    if start >= end:
        raise RequestError(f"{FROM} must lie before {TO}; nothing was planned.")
    return start, end
