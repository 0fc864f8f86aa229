"""The quarantine: what cannot go on, as Kafka gave it, each with where it was stopped and why.

One row is one record that does not decode, or one row of a transform's result that breaks a check or has no event time.
A slice's quarantine is a part file of its generation; it depends on the raw bytes and the recipe alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.decoding import Undecodable
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA

KIND = "quarantine"
DECODE, EVENT_TIME, CHECK = "decode", "event_time", "check"
NO_EVENT_TIME, BROKEN_CHECK = "no_event_time", "check"
_COPIED = ("timestamp", "timestamp_type", "key", "value", "headers")
_FIELDS = (
    pa.field("stage", pa.string()),
    pa.field("code", pa.string()),
    pa.field("check", pa.string()),
    pa.field("reason", pa.string()),
)
_STOPPED = pa.schema(
    [
        pa.field("topic", pa.string()),
        *(RAW_SCHEMA.field(name) for name in _COPIED),
        *_FIELDS,
        pa.field("_partition", pa.int32()),
        pa.field("_offset", pa.int64()),
        pa.field("_row", pa.int32()),
    ]
)
_WHERE = ("cluster_id", "topic_id", "batch_id", "recipe")
# `_row` is -1 for a record that has no rows, since it did not decode. `earlier` says why a record that was run again
# had been stopped before.
SCHEMA = pa.schema(
    [
        *(_STOPPED.field(name) for name in _STOPPED.names[:-3]),
        pa.field("earlier", pa.string()),
        *(pa.field(name, pa.string()) for name in _WHERE),
        pa.field("generation", pa.int64()),
        *(_STOPPED.field(name) for name in _STOPPED.names[-3:]),
    ]
)


@dataclass(slots=True)
class Stopped:
    """Gathers what one slice's transform stops, piece by piece."""

    tables: list[pa.Table] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def undecodable(self, found: Iterable[Undecodable]) -> None:
        """Add records that do not decode."""
        for one in found:
            self._add(one.raw, DECODE, one.codes, [""] * len(one.codes), one.reasons, np.full(len(one.codes), -1))

    def rejected(
        self, raw: pa.Table, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int32], why: Sequence[tuple[str, str]]
    ) -> None:
        """Add rows of the transform's result: for each its record's offset, its number there, and (check, reason).

        raw  the piece that the rows come from, of one partition, in offset order. An empty check means that the row
        has no event time.
        """
        at = np.searchsorted(arrow.joined(raw.column("offset")), offsets)
        records = raw.take(arrow.fixed(at.astype(np.int64), pa.int64()))
        for stage, code, chosen in (
            (EVENT_TIME, NO_EVENT_TIME, [i for i, (check, _) in enumerate(why) if not check]),
            (CHECK, BROKEN_CHECK, [i for i, (check, _) in enumerate(why) if check]),
        ):
            if chosen:
                some = np.array(chosen, np.int64)
                self._add(
                    records.take(arrow.fixed(some, pa.int64())),
                    stage,
                    [code] * len(chosen),
                    [why[i][0] for i in chosen],
                    [why[i][1] for i in chosen],
                    rows[some],
                )

    def _add(
        self,
        raw: pa.Table,
        stage: str,
        codes: Sequence[str],
        checks: Sequence[str],
        reasons: Sequence[str],
        rows: npt.NDArray[Any],
    ) -> None:
        count = len(codes)
        self.codes.update(codes)
        columns = [
            raw.column("topic"),
            *(raw.column(name) for name in _COPIED),
            arrow.constant(stage, count),
            arrow.strings(codes),
            arrow.strings(checks),
            arrow.strings(reasons),
            raw.column("partition"),
            raw.column("offset"),
            arrow.fixed(rows.astype(np.int32), pa.int32()),
        ]
        self.tables.append(pa.Table.from_arrays(columns, schema=_STOPPED))

    def table(self) -> pa.Table:
        """All that was stopped, by position."""
        whole = pa.concat_tables([arrow.empty_table(_STOPPED), *self.tables]).combine_chunks()
        offsets = arrow.joined(whole.column("_offset"))
        order = np.lexsort((arrow.joined(whole.column("_row")), offsets, arrow.joined(whole.column("_partition"))))
        return whole.take(arrow.fixed(order.astype(np.int64), pa.int64()))


def addressed(stopped: pa.Table, identity: TopicIdentity, batch_id: str, generation: int, recipe: str) -> pa.Table:
    """What was stopped, with the topic's identity and the generation that stopped it: the rows of the part file."""
    count = stopped.num_rows
    said: Mapping[str, str] = {
        "cluster_id": identity.cluster_id,
        "topic_id": identity.topic_id or "",
        "batch_id": batch_id,
        "recipe": recipe,
        "earlier": "",
    }
    columns = {name: stopped.column(name) for name in stopped.schema.names}
    columns |= {name: arrow.constant(text, count) for name, text in said.items()}
    columns["generation"] = arrow.fixed(np.full(count, generation, np.int64), pa.int64())
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
