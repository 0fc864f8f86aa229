"""The history checker: what producers were told, against what was landed, loaded, and can be read directly.

Producers write values that occur once and log each as ok (with its offset), info (nobody knows: it may be in, but once)
or fail (it must not be visible). The classes of anomalies follow Jepsen's workload for Kafka:

    lost          acknowledged or visible, taken by a batch, and neither in the target nor in quarantine
    duplicate     an offset that occurs twice, or a value at more offsets than the log itself has it at
    aborted-read  a value of an aborted transaction that was given
    inconsistent  an offset with another value than was acknowledged, or than a direct committed read gives
    gap, overlap  landed ranges that do not tile what is from origin to cursor
    order         rows of a slice that do not ascend, or lie outside of it
    conservation  numbers that do not add up
    leftover      temporary files that nobody removed
    vacuous       no fault was injected, or no record was read: such a run proves nothing

A value that the log itself has at two offsets was doubled by its producer, as a client may that gave up waiting for an
acknowledgement: those are two records, both of which must be given. They are counted as `doubled`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from airflow_provider_eventlog.core.offsets import OffsetRange

_SHOWN = 12


class Told(StrEnum):
    """What a producer was told of a write."""

    OK = "ok"
    INFO = "info"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to write a value; the offset is known where it is ok."""

    value: bytes
    partition: int
    told: Told = Told.INFO
    offset: int | None = None


class History:
    """All writes of a run; producers in several threads share one."""

    def __init__(self) -> None:
        self._writes: dict[bytes, Write] = {}
        self._count: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, session: str, partition: int, padding: int = 0) -> bytes:
        """A value that occurs nowhere else, logged as info until it is settled; `padding` more bytes make it long."""
        with self._lock:
            self._count[session] += 1
            value = f"{session}:{self._count[session]}:".encode().ljust(padding, b".")
            self._writes[value] = Write(value, partition)
            return value

    def settle(self, value: bytes, told: Told, offset: int | None = None) -> None:
        """Log how a write ended."""
        with self._lock:
            self._writes[value] = replace(self._writes[value], told=told, offset=offset)

    def told(self) -> Counter[str]:
        """How many writes ended how."""
        with self._lock:
            return Counter(str(write.told) for write in self._writes.values())

    def writes(self) -> dict[bytes, Write]:
        """All writes by value."""
        with self._lock:
            return dict(self._writes)


class Row(NamedTuple):
    """A value where it was found."""

    partition: int
    offset: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A landed slice: its accounting as the manifest has it, and its rows as the file has them."""

    range: OffsetRange
    landed: int
    invisible: int
    lost: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What stands after healing and retrying to the end.

    origin, cursor  by partition: where the chain begins, and where the newest cut stands
    pieces          of all manifests
    target          rows of the table; quarantine: rows that were stopped
    log             a direct committed read, by partition and offset
    leftovers       temporary files
    faults          what was injected
    """

    origin: Mapping[int, int]
    cursor: Mapping[int, int]
    pieces: tuple[Piece, ...]
    target: tuple[Row, ...]
    quarantine: tuple[Row, ...]
    log: Mapping[int, Mapping[int, bytes]]
    leftovers: tuple[str, ...]
    faults: tuple[str, ...]


class Anomaly(NamedTuple):
    """Class and particulars."""

    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """What was found; `figures` are for people."""

    anomalies: tuple[Anomaly, ...]
    figures: Mapping[str, int] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        """The classes that occur."""
        return {anomaly.kind for anomaly in self.anomalies}

    def __str__(self) -> str:
        counts = Counter(anomaly.kind for anomaly in self.anomalies)
        lines = [", ".join(f"{name} {number}" for name, number in self.figures.items())]
        lines += [f"{kind}: {number}" for kind, number in sorted(counts.items())]
        lines += [f"  {kind}: {text}" for kind, text in self.anomalies[:_SHOWN]]
        return "\n".join(lines)


def examine(history: History, evidence: Evidence) -> Report:
    """Class every anomaly."""
    writes = history.writes()
    found = [
        *_vacuous(evidence),
        *_lost(writes, evidence),
        *_duplicate(evidence),
        *_wrong(writes, evidence),
        *_tiling(evidence),
        *_order(evidence),
        *_conservation(evidence),
        *(Anomaly("leftover", path) for path in evidence.leftovers),
    ]
    figures = {
        **{told: history.told()[told] for told in ("ok", "info", "fail")},
        "slices": len(evidence.pieces),
        "rows": len(evidence.target),
        "invisible": sum(piece.invisible for piece in evidence.pieces),
        "doubled": sum(n - 1 for n in _logged(evidence).values()),
        "faults": len(evidence.faults),
        "anomalies": len(found),
    }
    return Report(tuple(found), figures)


def _vacuous(evidence: Evidence) -> Iterator[Anomaly]:
    if not evidence.faults:
        yield Anomaly("vacuous", "no fault was injected")
    if not evidence.target:
        yield Anomaly("vacuous", "no record was read")


def _lost(writes: Mapping[bytes, Write], evidence: Evidence) -> Iterator[Anomaly]:
    given = {(row.partition, row.offset) for row in (*evidence.target, *evidence.quarantine)}

    def taken(partition: int, offset: int) -> bool:
        return evidence.origin.get(partition, 0) <= offset < evidence.cursor.get(partition, 0)

    acknowledged = {
        (w.partition, w.offset): w.value for w in writes.values() if w.told is Told.OK and w.offset is not None
    }
    visible = {(p, o): value for p, log in evidence.log.items() for o, value in log.items()}
    for place in sorted((acknowledged | visible).keys() - given):
        if taken(*place):
            by = "acknowledged" if place in acknowledged else "visible"
            yield Anomaly("lost", f"{place}: {(acknowledged | visible)[place]!r} is {by}, and nowhere")


def _duplicate(evidence: Evidence) -> Iterator[Anomaly]:
    logged = _logged(evidence)
    for where, rows in (
        ("target and quarantine", [*evidence.target, *evidence.quarantine]),
        ("raw files", [row for piece in evidence.pieces for row in piece.rows]),
    ):
        places = Counter((row.partition, row.offset) for row in rows)
        values = Counter(row.value for row in rows)
        values.subtract(Counter(value for value, n in logged.items() for _ in range(n - 1)))
        yield from (Anomaly("duplicate", f"{where}: {place} {n} times") for place, n in places.items() if n > 1)
        yield from (Anomaly("duplicate", f"{where}: {value!r} {n} times") for value, n in values.items() if n > 1)


def _wrong(writes: Mapping[bytes, Write], evidence: Evidence) -> Iterator[Anomaly]:
    for known in writes.values():
        direct = None if known.offset is None else evidence.log.get(known.partition, {}).get(known.offset)
        if direct not in (None, known.value):
            yield Anomaly("inconsistent", f"log: {known}, but a direct read gives {direct!r}")
    raw = (row for piece in evidence.pieces for row in piece.rows)
    for where, rows in (("target", evidence.target), ("quarantine", evidence.quarantine), ("raw", raw)):
        for row in rows:
            write = writes.get(row.value)
            if write is None:
                yield Anomaly("inconsistent", f"{where}: nobody wrote {row}")
            elif write.told is Told.FAIL:
                yield Anomaly("aborted-read", f"{where}: {row}")
            elif (direct := evidence.log.get(row.partition, {}).get(row.offset)) != row.value:
                yield Anomaly("inconsistent", f"{where}: {row}, but a direct read gives {direct!r}")


def _tiling(evidence: Evidence) -> Iterator[Anomaly]:
    for partition, end in sorted(evidence.cursor.items()):
        start = evidence.origin.get(partition, 0)
        ranges = sorted(p.range for p in evidence.pieces if p.range.partition == partition and len(p.range))
        edges = [OffsetRange(partition, start, start), *ranges, OffsetRange(partition, end, end)]
        reached = start
        for _, right in pairwise(edges):
            if right.start > reached:
                yield Anomaly("gap", f"{OffsetRange(partition, reached, right.start)} is in no slice")
            elif right.start < reached:
                yield Anomaly(
                    "overlap", f"{OffsetRange(partition, right.start, reached)} is in several, or past the end"
                )
            reached = max(reached, right.end)


def _order(evidence: Evidence) -> Iterator[Anomaly]:
    for piece in evidence.pieces:
        for left, right in pairwise(piece.rows):
            if right.offset <= left.offset:
                yield Anomaly("order", f"{piece.range}: {right.offset} behind {left.offset}")
        for row in piece.rows:
            if row.partition != piece.range.partition or not piece.range.start <= row.offset < piece.range.end:
                yield Anomaly("order", f"{piece.range} has a row of {row.partition}:{row.offset}")


def _conservation(evidence: Evidence) -> Iterator[Anomaly]:
    given = _by_partition((*evidence.target, *evidence.quarantine))
    landed = _by_partition(row for piece in evidence.pieces for row in piece.rows)
    for piece in evidence.pieces:
        if len(piece.range) != piece.landed + piece.invisible + piece.lost:
            yield Anomaly(
                "conservation",
                f"{piece.range}: {len(piece.range)} offsets are not {piece.landed} landed + {piece.invisible} "
                f"invisible + {piece.lost} lost",
            )
        if len(piece.rows) != piece.landed:
            yield Anomaly("conservation", f"{piece.range}: {len(piece.rows)} rows, {piece.landed} in the manifest")
    for partition in sorted(given.keys() | landed.keys()):
        if given[partition] != landed[partition]:
            yield Anomaly(
                "conservation",
                f"partition {partition}: {landed[partition]} landed, {given[partition]} in target and quarantine",
            )


def _logged(evidence: Evidence) -> Counter[bytes]:
    return Counter(value for log in evidence.log.values() for value in log.values())


def _by_partition(rows: Iterable[Row]) -> Counter[int]:
    return Counter(row.partition for row in rows)
