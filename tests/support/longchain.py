"""A ledger with a long chain, written in bulk, and the topic that it is of: for what must not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import insert, text

from airflow_provider_eventlog.core.ledger import SqlLedger, schema
from airflow_provider_eventlog.core.ledger.rows import plan_text
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream

IDENTITY = TopicIdentity("cluster", "long", "topic-id")
# Cut n has this instant plus n minutes; a minute has so many records in each partition, in even steps.
FIRST_MS, MINUTE_MS, RECORDS = 1_700_000_000_000, 60_000, 100
STEP_MS = MINUTE_MS // RECORDS
# Every so many batches the stream has a decision whose record stands.
DECIDED = 10


def pipeline(name: str = "p", **stream: Any) -> Pipeline:
    """A pipeline over the long stream; `fill` gives "p" a loaded generation of every batch."""
    declared = Stream(IDENTITY.topic, name="long", start="earliest", **stream)
    return Pipeline(name, stream=declared, decode=Raw(), outputs=[Rows(DuckDB("out.duckdb", table=name))])


def instant(n: int) -> int:
    """The instant of cut n."""
    return FIRST_MS + n * MINUTE_MS


class EvenLog:
    """Implements the look-ups of `LogSource`: partitions of `length` records in even steps; `asked` are its requests.

    Each request is kept with how many partitions it was for.
    """

    def __init__(self, partitions: int, length: int) -> None:
        self.partitions, self.length = partitions, length
        self.asked: list[tuple[str, int]] = []

    def describe(self) -> TopicDescription:
        self._ask("describe")
        return TopicDescription(IDENTITY, self.partitions)

    def log_starts(self) -> dict[int, int]:
        self._ask("starts")
        return dict.fromkeys(range(self.partitions), 0)

    def log_ends(self) -> dict[int, int]:
        self._ask("ends")
        return dict.fromkeys(range(self.partitions), self.length)

    def high_watermarks(self) -> dict[int, int]:
        self._ask("high")
        return dict.fromkeys(range(self.partitions), self.length)

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        asked = range(self.partitions) if partitions is None else partitions
        self._ask("at", len(asked))
        offset = max(0, -(-(instant - FIRST_MS) // STEP_MS))
        found = FoundOffset(None, None)
        if offset < self.length:
            found = FoundOffset(offset, FIRST_MS + offset * STEP_MS)
        return dict.fromkeys(asked, found)

    def group_offsets(self, group: str) -> dict[int, int]:
        self._ask("group")
        return {}

    def retention(self) -> Retention:
        self._ask("retention", 1)
        return Retention(("delete",), 7 * 24 * 3_600_000, None, "CreateTime")

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        raise AssertionError("no record of the even log is from the future")

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[Any]:
        raise AssertionError("planning reads nothing")

    @property
    def last_read(self) -> SliceRead:
        raise AssertionError("planning reads nothing")

    def close(self) -> None:
        pass

    def _ask(self, what: str, partitions: int | None = None) -> None:
        self.asked.append((what, self.partitions if partitions is None else partitions))


def batch(n: int, partitions: int) -> BatchPlan:
    """Batch n of the chain: a minute of every partition."""
    ranges = tuple(OffsetRange(p, n * RECORDS, (n + 1) * RECORDS) for p in range(partitions))
    return BatchPlan(f"b{n:08d}", "long", 1, "chain", instant(n), instant(n + 1), ranges, ranges)


def fill(ledger: SqlLedger, batches: int, partitions: int = 16) -> None:
    """Write a chain of landed batches that pipeline "p" has loaded, as its runs by since_last leave it."""
    first = pipeline()
    with ledger.planning("long", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
    ledger.register_pipeline("p", "long", first.recipe, first.serialize())
    plans = (batch(n, partitions) for n in range(batches))
    with ledger.engine.begin() as connection:
        known = {"count": batches, "partitions": partitions, "recipe": first.recipe}
        constants = {"first": FIRST_MS, "minute": MINUTE_MS, "records": RECORDS, "decided": DECIDED}
        connection.execute(_CUTS, {**known, **constants})
        connection.execute(_CUT_OFFSETS, {**known, **constants})
        instants = {n: key for key, n in connection.execute(text('SELECT cut_id, instant FROM "cut"'))}
        connection.execute(
            insert(schema.batch),
            [
                {
                    "batch_id": one.batch_id,
                    "stream": one.stream,
                    "epoch": one.epoch,
                    "kind": one.kind,
                    "from_cut": instants[one.from_instant],
                    "to_cut": instants[one.to_instant],
                    "plan": plan_text(one),
                    "length": one.length,
                    "state": "landed",
                    "manifest_digest": "m",
                }
                for one in plans
            ],
        )
        for statement in (_BEGINS, _SLICES, _GENERATIONS, _RUNS, _RUN_BATCHES, _DECISIONS):
            connection.execute(statement, {**known, **constants})
        mark = {"stream": "long", "epoch": 1, "pipeline": "p", "instant": instant(batches - 1)}
        connection.execute(insert(schema.reached).values(**mark))
    if ledger.engine.dialect.name == "postgresql":
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def _statement(numbers: str, words: str) -> Any:
    """A statement that inserts for each number n from 0 on, below `numbers`, and where it is named each partition p."""
    series = (
        f"n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < {numbers}), "
        f"p(p) AS (SELECT 0 UNION ALL SELECT p + 1 FROM p WHERE p + 1 < CAST(:partitions AS INTEGER))"
    )
    head, _, tail = words.partition(" SELECT ")
    return text(f"{head} WITH RECURSIVE {series} SELECT {tail}")


_COUNT = "CAST(:count AS INTEGER)"
_ID = "'b' || substr(CAST(100000000 + n AS VARCHAR(20)), 2)"
_AT = "CAST(:first AS BIGINT) + n * CAST(:minute AS BIGINT)"
_CUTS = _statement(
    f"{_COUNT} + 1",
    f"""INSERT INTO "cut" (stream, epoch, kind, instant) SELECT 'long', 1, 'since_last', {_AT} FROM n ORDER BY n""",
)
_CUT_OFFSETS = _statement(
    f"{_COUNT} + 1",
    f"""INSERT INTO cut_offset (cut_id, "partition", "offset", found_by)
 SELECT c.cut_id, p, n * CAST(:records AS BIGINT), 'log_end' FROM n CROSS JOIN p
 JOIN "cut" c ON c.stream = 'long' AND c.epoch = 1 AND c.instant = {_AT}""",
)
_BEGINS = text('UPDATE "cut" SET begins = (SELECT b.batch_id FROM batch b WHERE b.from_cut = "cut".cut_id)')
_SLICES = _statement(
    _COUNT,
    f"""INSERT INTO slice (stream, epoch, "partition", start, "end", batch_id, path, file_bytes, sha256, digest,
 "rows", invisible, aborted, lost, gaps, losses, payload_bytes)
 SELECT 'long', 1, p, n * CAST(:records AS BIGINT), (n + 1) * CAST(:records AS BIGINT), {_ID}, 'raw', 7, 'sha', 'd',
 CAST(:records AS BIGINT), 0, 0, 0, '[]', '[]', 1000 FROM n CROSS JOIN p""",
)
_GENERATIONS = _statement(
    _COUNT,
    f"""INSERT INTO generation (pipeline, batch_id, gen, recipe, inputs, state)
 SELECT 'p', {_ID}, 1, CAST(:recipe AS VARCHAR(80)), 'i', 'loaded' FROM n""",
)
_RUNS = _statement(
    _COUNT,
    """INSERT INTO run (run_key, pipeline, seq, stream, epoch, recipe, mode, request, groups, notes)
 SELECT 'r' || CAST(n AS VARCHAR(20)), 'p', n + 1, 'long', 1, CAST(:recipe AS VARCHAR(80)), 'since_last',
 '{}', '[]', '[]' FROM n""",
)
_RUN_BATCHES = _statement(
    _COUNT,
    f"""INSERT INTO run_batch (run_key, pipeline, ord, batch_id, gen, mode)
 SELECT 'r' || CAST(n AS VARCHAR(20)), 'p', 0, {_ID}, 1, 'new' FROM n""",
)
_DECISIONS = _statement(
    f"{_COUNT} / CAST(:decided AS INTEGER)",
    """INSERT INTO decision (id, kind, stream, epoch, who, why, at, payload, written)
 SELECT 'd' || CAST(n AS VARCHAR(20)), 'loss', 'long', 1, 'test', 'test', n, '{}', 1 FROM n""",
)
