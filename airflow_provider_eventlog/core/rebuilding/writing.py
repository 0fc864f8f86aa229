"""Writing a ledger's rows: whole values, over one open connection, nothing asked and nothing decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, insert, update

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.landing import cut_json
from airflow_provider_eventlog.core.ledger import decisions, rows, schema
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut
from airflow_provider_eventlog.core.protocols import BatchState, Decision, EpochRecord, FoldLog, FoldRecord
from airflow_provider_eventlog.core.rebuilding.derived import Made
from airflow_provider_eventlog.core.rebuilding.reading import Landed
from airflow_provider_eventlog.core.staging.records import canonical, digest


class Writer:
    """Inserts into the tables of a new ledger, in the order that their keys demand."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cuts: dict[tuple[str, int, int], tuple[int, str]] = {}

    def staging(self, root: str, root_id: str) -> None:
        """Which staging root the ledger belongs to."""
        values = [{"key": "staging_root", "value": root}, {"key": "staging_id", "value": root_id}]
        self._connection.execute(insert(schema.meta), values)

    def stream(self, name: str, declaration: str) -> None:
        """A stream; its epochs follow."""
        self._insert(schema.stream, {"name": name, "declaration": declaration, "revision": 1})

    def epoch(self, record: EpochRecord) -> None:
        """An epoch of a stream that was written; its cuts follow."""
        key = {"stream": record.stream, "epoch": record.epoch}
        self._insert(schema.epoch, {**key, **record.identity.to_json(), "reason": record.reason})

    def cut(self, stream: str, epoch: int, cut: Cut) -> int:
        """The id of a cut, which is written when it is met first; raises StagingCorruptError for two at one instant."""
        key, content = (stream, epoch, cut.instant), digest(cut_json(cut))
        if key in self._cuts:
            number, known = self._cuts[key]
            if known != content:
                raise StagingCorruptError(
                    f"Two records give the cut of stream {stream!r}, epoch {epoch}, instant {cut.instant} other "
                    f"offsets: they are of different ledgers. Restore the right ones from a copy."
                )
            return number
        made = self._connection.execute(
            insert(schema.cut).values(stream=stream, epoch=epoch, kind=cut.kind, instant=cut.instant)
        )
        assert made.inserted_primary_key is not None
        (number,) = made.inserted_primary_key
        self._insert(
            schema.cut_offset,
            *(
                {"cut_id": number, "partition": p, "offset": offset, "found_by": cut.found_by[p]}
                for p, offset in sorted(cut.offsets.items())
            ),
        )
        self._cuts[key] = (number, content)
        return int(number)

    def batch(self, landed: Landed) -> None:
        """A landed batch of an epoch that was written, with its cuts and slices."""
        plan = landed.plan
        ends = [None if cut is None else self.cut(plan.stream, plan.epoch, cut) for cut in landed.cuts]
        self._insert(
            schema.batch,
            {
                "batch_id": plan.batch_id,
                "stream": plan.stream,
                "epoch": plan.epoch,
                "kind": plan.kind,
                "from_cut": ends[0],
                "to_cut": ends[1],
                "plan": rows.plan_text(plan),
                "length": plan.length,
                "state": BatchState.LANDED.value,
                "manifest_digest": landed.digest,
            },
        )
        if ends[0] is not None:
            begins = update(schema.cut).where(schema.cut.c.cut_id == ends[0])
            self._connection.execute(begins.values(begins=plan.batch_id))
        key = _key(plan)
        self._insert(
            schema.slices,
            *(
                {
                    **key,
                    "partition": one.range.partition,
                    "start": one.range.start,
                    "end": one.range.end,
                    **rows.slice_row(one),
                }
                for one in landed.slices
            ),
        )

    def recipe(self, pipeline: str, recipe: str, stream: str, declaration: str) -> None:
        """What a pipeline declared under a recipe."""
        values = {"pipeline": pipeline, "recipe": recipe, "stream": stream, "declaration": declaration}
        self._insert(schema.recipe, values)

    def pipeline(self, name: str, stream: str, recipe: str) -> None:
        """A pipeline with its current recipe."""
        self._insert(schema.pipeline, {"name": name, "stream": stream, "recipe": recipe})

    def generation(self, made: Made) -> None:
        """A generation of a batch that was written, with its parts."""
        record = made.record
        key = {"pipeline": record.pipeline, "batch_id": record.batch_id, "gen": record.generation}
        self._insert(
            schema.generation,
            {
                **key,
                "recipe": record.recipe,
                "inputs": made.inputs,
                "state": record.state.value,
                "accounting": None if record.accounting is None else canonical(dict(record.accounting)),
                "digest": record.digest,
            },
        )
        self._insert(schema.part, *({**key, **rows.part_row(part)} for part in made.parts))

    def decisions(self, found: Iterable[Decision]) -> None:
        """Decisions whose records stand in staging; the batches that they are about were written."""
        made = list(found)
        self._insert(schema.decision, *({**rows.decision_row(one), "written": 1} for one in made))
        for batch_id, one in retention.expired_raw(made).items():
            decisions.mark(self._connection, [batch_id], one.id)

    def fold_log(self, log: FoldLog) -> None:
        """A fold log; its folds follow."""
        self._insert(schema.fold_log, dataclasses.asdict(log))

    def fold(self, record: FoldRecord) -> None:
        """A fold of a log that was written, of batches that were written."""
        self._insert(schema.fold, rows.fold_row(record))

    def _insert(self, table: Any, *values: Mapping[str, Any]) -> None:
        if values:
            self._connection.execute(insert(table), list(values))


def _key(plan: BatchPlan) -> dict[str, Any]:
    return {"stream": plan.stream, "epoch": plan.epoch, "batch_id": plan.batch_id}
