"""A sensor for new offsets of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_eventlog.core.errors import DeclarationError, EventLogError, TopicReplacedError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.duration import milliseconds
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.stream import FromGroup, Stream
from airflow_provider_eventlog.hooks.config import open_read_ledger
from airflow_provider_eventlog.hooks.eventlog import EventLogHook
from airflow_provider_eventlog.operators.common import retried_only_if_it_can_help
from airflow_provider_eventlog.triggers.offsets import OffsetsTrigger, beyond, ready

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.offsets import TopicIdentity
    from airflow_provider_eventlog.core.protocols import Ledger, LogSource


@dataclass(frozen=True, slots=True)
class Baseline:
    """From where offsets count: behind `positions`, and `pending` more in batches that the pipeline has not taken.

    `positions` is None for a stream that starts at the latest offset and has no first batch yet: nothing can be new
    to it until its first run has fixed where it starts.
    """

    positions: Mapping[int, int] | None
    pending: int = 0
    identity: TopicIdentity | None = None


class OffsetsSensor(BaseSensorOperator):
    """Succeeds when at least `min_offsets` are new, or one is and `max_wait` is over.

    stream | pipeline  one of them. New to a stream is what lies behind its newest cut; to a pipeline also what it has
                       not taken of batches that others planned
    min_offsets        how many offsets; records in transactions and markers count, as offsets do everywhere
    max_wait           seconds (or a duration such as "10 minutes") after which one is enough; None: never. Airflow's
                       own `max_wait` of sensors, the bound of exponential backoff, is not available here
    deferrable         wait in the triggerer; default `[operators] default_deferrable`
    poke_interval, timeout, mode, soft_fail, ...  as for every sensor

    Nothing is consumed. A stream that starts at "latest" and was never planned succeeds at once, since its first run
    fixes where it starts. Kafka being unreachable is waited out until `timeout`; other failures end the sensor at
    once. Pushes {"new_offsets": n}.
    """

    shallow_copy_attrs: Sequence[str] = ("stream", "pipeline")
    ui_color = "#eef4e8"

    def __init__(
        self,
        *,
        stream: Stream | None = None,
        pipeline: Pipeline | None = None,
        min_offsets: int = 1,
        max_wait: float | str | timedelta | None = None,
        deferrable: bool | None = None,
        poke_interval: timedelta | float = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        if (stream is None) == (pipeline is None):
            raise DeclarationError("OffsetsSensor takes a stream or a pipeline, one of them.")
        if pipeline is not None and not isinstance(pipeline, Pipeline):
            raise DeclarationError(f"OffsetsSensor: pipeline={printable(pipeline)} must be a Pipeline.")
        watched = pipeline.stream if pipeline is not None else stream
        if not isinstance(watched, Stream):
            raise DeclarationError(f"OffsetsSensor: stream={printable(watched)} must be a Stream.")
        if type(min_offsets) is not int or min_offsets < 1:
            raise DeclarationError(
                f"OffsetsSensor: min_offsets={printable(min_offsets)} must be a whole number from 1."
            )
        self.stream, self.pipeline, self.min_offsets = watched, pipeline, min_offsets
        # Not `max_wait`: the base class keeps the bound of its backoff under that name.
        self.enough_after_s = None if max_wait is None else milliseconds("max_wait", max_wait) / 1000
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )

    def execute(self, context: Context) -> Any:
        """Look once, and wait if that is not enough."""
        if not self.deferrable:
            return super().execute(context)
        started = time.time()
        with retried_only_if_it_can_help():
            base = self._baseline()
            new = self._new(base)
        if new is not None and ready(new, 0.0, self.min_offsets, self.enough_after_s):
            return {"new_offsets": new}
        if base.positions is None:
            return {"new_offsets": 0}
        return self.defer(
            trigger=OffsetsTrigger(
                topic=self.stream.topic,
                kafka_conn_id=self.stream.kafka_conn_id,
                positions=base.positions,
                min_offsets=self.min_offsets,
                max_wait=self.enough_after_s,
                pending=base.pending,
                topic_id=base.identity.topic_id if base.identity else None,
                poll_interval=self.poke_interval,
                started_at=started,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Take the trigger's answer; its errors are those that trying again cannot help."""
        answer = dict(event or {})
        if answer.get("status") != "ready":
            raise AirflowFailException(f"{answer.get('error', 'no answer')}: {answer.get('message', '')}")
        self.log.info("%s offsets of topic %r are new", answer["new_offsets"], self.stream.topic)
        return {"new_offsets": answer["new_offsets"]}

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        began = getattr(self, "_began", None) or self._waiting_since(context)
        self._began = began
        with retried_only_if_it_can_help():
            base = self._baseline()
            new = self._new(base)
        waited = (datetime.now(UTC) - began).total_seconds()
        done = base.positions is None or (new is not None and ready(new, waited, self.min_offsets, self.enough_after_s))
        return PokeReturnValue(done, {"new_offsets": new or 0} if done else None)

    def _waiting_since(self, context: Context) -> datetime:
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        return first or datetime.now(UTC)

    def _source(self) -> LogSource:
        from airflow_provider_eventlog.core.kafka.source import KafkaSource

        return KafkaSource(self.stream.topic, EventLogHook(self.stream.kafka_conn_id).client_settings())

    def _baseline(self) -> Baseline:
        ledger = open_read_ledger()
        try:
            return baseline(ledger, self._source, self.stream, self.pipeline)
        finally:
            ledger.close()

    def _new(self, base: Baseline) -> int | None:
        """How many offsets are new; None while Kafka cannot be asked."""
        if base.positions is None:
            self.log.info("Stream %r has no batch yet; its first run fixes where it starts.", self.stream.name)
            return None
        source = self._source()
        try:
            found = source.describe().identity
            if base.identity is not None and found != base.identity:
                from airflow_provider_eventlog.core.planning.plan import replaced

                raise TopicReplacedError(replaced(base.identity, found))
            starts, ends = source.log_starts(), source.log_ends()
        except EventLogError as error:
            if not error.retriable:
                raise
            self.log.warning("Kafka cannot be asked now: %s", error)
            return None
        finally:
            source.close()
        new = base.pending + beyond(ends, base.positions, starts.__getitem__)
        self.log.info("%s offsets of topic %r are new, %s are wanted", new, self.stream.topic, self.min_offsets)
        return new


def baseline(ledger: Ledger, source: Callable[[], LogSource], stream: Stream, pipeline: Pipeline | None) -> Baseline:
    """From where offsets of `stream` count; `source` is called only where its start must be looked up in Kafka."""
    epochs = ledger.epochs(stream.name)
    newest = ledger.newest_offsets(stream.name, epochs[-1].epoch) if epochs else None
    if newest is None:
        return Baseline(_start(stream, source))
    epoch = epochs[-1]
    pending = 0 if pipeline is None else ledger.waiting_offsets(pipeline.name, stream.name, epoch.epoch)
    return Baseline(dict(newest), pending, epoch.identity)


def _start(stream: Stream, source: Callable[[], LogSource]) -> Mapping[int, int] | None:
    """Where the first batch would begin, as planning has it."""
    start = stream.start
    if start in ("earliest", "interval"):
        return {}
    if start == "latest":
        return None
    if isinstance(start, Mapping):
        return dict(start)
    opened = source()
    try:
        if isinstance(start, FromGroup):
            return opened.group_offsets(start.group)
        assert isinstance(start, datetime)
        found, ends = opened.offsets_at(int(start.timestamp() * 1000)), opened.log_ends()
        return {p: ends[p] if f.offset is None else f.offset for p, f in found.items()}
    finally:
        opened.close()
