"""The history checker names what is planted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from airflow_provider_eventlog.core.offsets import OffsetRange
from tests.support.checker import Evidence, History, Piece, Row, Told, examine


def world() -> tuple[History, Evidence]:
    """Two partitions of six offsets in slices of three.

    In each partition offset 1 is a marker, 4 was written by an aborted transaction; an unknown write came through at
    offset 5 of partition 0, another one nowhere.
    """
    history, log = History(), dict[int, dict[int, bytes]]()
    for partition in (0, 1):
        log[partition] = {}
        for offset in range(6):
            if offset == 1:
                continue
            value = history.begin("s", partition)
            if offset == 4:
                history.settle(value, Told.FAIL)
                continue
            log[partition][offset] = value
            if (partition, offset) != (0, 5):
                history.settle(value, Told.OK, offset)
    history.begin("s", 0)
    rows = tuple(Row(p, o, value) for p, values in log.items() for o, value in values.items())
    pieces = tuple(
        Piece(
            OffsetRange(p, start, start + 3), 2, 1, 0,
            tuple(row for row in rows if row.partition == p and start <= row.offset < start + 3),
        )
        for p in (0, 1)
        for start in (0, 3)
    )  # fmt: skip
    return history, Evidence({0: 0, 1: 0}, {0: 6, 1: 6}, pieces, rows, (), log, (), ("a broker was killed",))


def with_piece(evidence: Evidence, piece: Piece) -> Evidence:
    return replace(evidence, pieces=(piece, *evidence.pieces[1:]))


def aborted(history: History) -> bytes:
    return next(w.value for w in history.writes().values() if w.told is Told.FAIL)


def lost(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, target=evidence.target[1:])


def lost_by_kafka(history: History, evidence: Evidence) -> Evidence:
    """Acknowledged, and gone before anybody could read it."""
    piece = evidence.pieces[0]
    short = with_piece(evidence, replace(piece, landed=1, invisible=2, rows=piece.rows[1:]))
    log = {**evidence.log, 0: {o: v for o, v in evidence.log[0].items() if o}}
    return replace(short, target=evidence.target[1:], log=log)


def lost_unknown(history: History, evidence: Evidence) -> Evidence:
    """A write of unknown end that a direct read shows."""
    return replace(evidence, target=tuple(row for row in evidence.target if row[:2] != (0, 5)))


def loaded_twice(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, target=(*evidence.target, evidence.target[0]))


def landed_at_two(history: History, evidence: Evidence) -> Evidence:
    """A value at a second offset, in raw file and target alike, but not in the log."""
    value = evidence.log[0][0]
    piece, more = evidence.pieces[0], Row(0, 1, value)
    rows = (piece.rows[0], more, *piece.rows[1:])
    found = with_piece(evidence, replace(piece, landed=3, invisible=0, rows=rows))
    return replace(found, target=(*evidence.target, more))


def acknowledged_elsewhere(history: History, evidence: Evidence) -> Evidence:
    """The log has another value at an offset than was acknowledged."""
    history.settle(evidence.log[0][0], Told.OK, 2)
    history.settle(evidence.log[0][2], Told.INFO)
    return evidence


def aborted_read(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, target=(*evidence.target, Row(0, 4, aborted(history))))


def aborted_landed(history: History, evidence: Evidence) -> Evidence:
    piece = evidence.pieces[1]
    rows = (piece.rows[0], Row(0, 4, aborted(history)), piece.rows[1])
    return replace(evidence, pieces=(evidence.pieces[0], replace(piece, rows=rows), *evidence.pieces[2:]))


def swapped(history: History, evidence: Evidence) -> Evidence:
    """Two offsets have each other's value in the target."""
    first, second, *rest = evidence.target
    return replace(evidence, target=(first._replace(value=second.value), second._replace(value=first.value), *rest))


def invented(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, target=(evidence.target[0]._replace(value=b"x"), *evidence.target[1:]))


def not_in_the_log(history: History, evidence: Evidence) -> Evidence:
    """A row of unknown end that a direct read does not show."""
    return replace(evidence, log={**evidence.log, 0: {o: v for o, v in evidence.log[0].items() if o != 5}})


def gap(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, pieces=evidence.pieces[1:])


def gap_at_the_end(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, cursor={0: 6, 1: 7})


def overlap(history: History, evidence: Evidence) -> Evidence:
    piece = evidence.pieces[0]
    return with_piece(evidence, replace(piece, range=OffsetRange(0, 0, 4), invisible=2))


def past_the_cursor(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, cursor={0: 5, 1: 6})


def order(history: History, evidence: Evidence) -> Evidence:
    piece = evidence.pieces[0]
    return with_piece(evidence, replace(piece, rows=piece.rows[::-1]))


def outside(history: History, evidence: Evidence) -> Evidence:
    first, second, *rest = evidence.pieces
    rows = (replace(first, rows=second.rows), replace(second, rows=first.rows))
    return replace(evidence, pieces=(*rows, *rest))


def unbalanced(history: History, evidence: Evidence) -> Evidence:
    return with_piece(evidence, replace(evidence.pieces[0], invisible=0))


def miscounted(history: History, evidence: Evidence) -> Evidence:
    return with_piece(evidence, replace(evidence.pieces[0], landed=3, invisible=0))


def leftover(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, leftovers=(".tmp/1",))


def no_fault(history: History, evidence: Evidence) -> Evidence:
    return replace(evidence, faults=())


def no_record(history: History, evidence: Evidence) -> Evidence:
    return Evidence({0: 0}, {0: 0}, (), (), (), {0: {}}, (), ("a broker was killed",))


Plant = Callable[[History, Evidence], Evidence]


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (lost, {"lost", "conservation"}),
        (lost_by_kafka, {"lost"}),
        (lost_unknown, {"lost", "conservation"}),
        (loaded_twice, {"duplicate", "conservation"}),
        (landed_at_two, {"duplicate", "inconsistent"}),
        (acknowledged_elsewhere, {"inconsistent"}),
        (aborted_read, {"aborted-read", "conservation"}),
        (aborted_landed, {"aborted-read", "conservation"}),
        (swapped, {"inconsistent"}),
        (invented, {"inconsistent"}),
        (not_in_the_log, {"inconsistent"}),
        (gap, {"gap", "conservation"}),
        (gap_at_the_end, {"gap"}),
        (overlap, {"overlap"}),
        (past_the_cursor, {"overlap"}),
        (order, {"order"}),
        (outside, {"order"}),
        (unbalanced, {"conservation"}),
        (miscounted, {"conservation"}),
        (leftover, {"leftover"}),
        (no_fault, {"vacuous"}),
        (no_record, {"vacuous"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_planted_is_named(plant: Plant, kinds: set[str]) -> None:
    """Each anomaly, planted in a world without any, is found under its class and no foreign one."""
    history, evidence = world()
    report = examine(history, plant(history, evidence))
    assert report.kinds == kinds, str(report)
    assert next(iter(kinds)) in str(report)


def test_a_world_without_anomalies_has_none() -> None:
    """Markers, aborted records, unknown ends, records in quarantine or behind the cursor are none."""
    history, evidence = world()
    assert examine(history, evidence).anomalies == ()
    moved = replace(evidence, target=evidence.target[1:], quarantine=evidence.target[:1])
    assert examine(history, moved).anomalies == ()
    late = history.begin("s", 0)
    history.settle(late, Told.OK, 6)
    report = examine(history, replace(evidence, log={**evidence.log, 0: {**evidence.log[0], 6: late}}))
    assert report.anomalies == ()
    assert report.figures == {
        "ok": 8, "info": 2, "fail": 2, "slices": 4, "rows": 8, "invisible": 4, "doubled": 0, "faults": 1,
        "anomalies": 0,
    }  # fmt: skip


def test_what_a_producer_doubled_are_two_records() -> None:
    """A value that the log itself has at two offsets must be given twice; it is counted, and no anomaly."""
    history, evidence = world()
    value, piece = evidence.log[0][0], evidence.pieces[0]
    history.settle(value, Told.INFO)
    more = Row(0, 1, value)
    doubled = replace(evidence, log={**evidence.log, 0: {**evidence.log[0], 1: value}})
    assert examine(history, doubled).kinds == {"lost"}
    rows = (piece.rows[0], more, *piece.rows[1:])
    given = replace(
        with_piece(doubled, replace(piece, landed=3, invisible=0, rows=rows)), target=(*evidence.target, more)
    )
    assert examine(history, given).anomalies == ()
    assert examine(history, given).figures["doubled"] == 1


def test_values_occur_once() -> None:
    """No two writes share a value, whatever their session and padding; an unsettled write is info."""
    history = History()
    values = [history.begin(session, 0, padding) for session in ("a", "b") for padding in (0, 20) for _ in range(50)]
    assert len(set(values)) == 200
    assert {len(value) for value in values} >= {20}
    assert history.told() == {"info": 200}
