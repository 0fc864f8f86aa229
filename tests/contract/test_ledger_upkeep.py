"""The ledger in bulk, over every kind of database: what an audit asks for, and the one correction that repair makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from sqlalchemy import text

from airflow_provider_eventlog.core.errors import ContentMismatchError
from airflow_provider_eventlog.core.ledger import upkeep
from airflow_provider_eventlog.core.ledger.sql import SqlLedger
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import BatchState, GenerationState, Ledger, StagedFile
from tests.contract.ledgers import IDENTITY, cut, off_chain, part_record, segment, slice_record


@pytest.fixture
def ledger(open_handle: Callable[[], Ledger]) -> SqlLedger:
    """Three segments of two partitions, the middle one not taken, and an off-chain batch beyond them."""
    made = open_handle()
    assert isinstance(made, SqlLedger)
    with made.planning("s", '{"a": 1}') as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for instant, offsets in ((100, {0: 0}), (200, {0: 10}), (300, {0: 20, 1: 5}), (400, {0: 30, 1: 7})):
            tx.add_cut(1, cut(instant, offsets))
        tx.add_batch(segment("b1", 100, 200, "0:0-10"))
        tx.add_batch(segment("b3", 300, 400, "0:20-30", "1:5-7"))
        tx.add_batch(off_chain("b9", "0:50-60", slices=["0:50-55", "0:55-60"]))
        for batch_id in ("b1", "b3"):
            tx.allocate("p", batch_id, "r", "i")
        tx.allocate("p", "b1", "r", "j")
        tx.allocate("q", "b9", "r", "i")
    made.register_pipeline("p", "s", "r", "{}")
    made.register_pipeline("p", "s", "r2", '{"v": 2}')
    made.register_pipeline("elsewhere", "z", "r", "{}")
    made.record_slice("b1", slice_record("0:0-10"))
    made.seal_batch("b1", "m1")
    made.record_part("p", "b1", 1, part_record("0:0-10"))
    made.record_part("p", "b1", 1, part_record("0:0-10", kind="quarantine"))
    made.advance_generation("p", "b1", 1, GenerationState.LOADED)
    return made


def test_the_chain_as_it_was_planned(ledger: SqlLedger) -> None:
    """Extents run from the first cut to the last, later partitions from 0; what no chain batch took is named."""
    audit = ledger.audit("s")
    assert audit.extents(1) == (OffsetRange(0, 0, 30), OffsetRange(1, 0, 7))
    assert [(low.instant, high.instant) for low, high in audit.unplanned(1)] == [(200, 300)]
    assert (audit.overlaps(1), audit.backward_cuts(1), audit.astray(1)) == ((), (), ())
    assert audit.planned(1, 0)[OffsetRange(0, 55, 60)] == "b9"
    assert audit.planned(1, 7) == {}
    other = ledger.audit("unknown")
    assert (other.extents(1), other.unplanned(1), list(other.batches(1)), other.pipelines()) == ((), (), [], ())


def test_batches_and_generations_in_pages(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pages, every batch comes once, by id, with all that belongs to it."""
    whole = list(ledger.audit("s").batches(1))
    taken = list(ledger.audit("s").generations("p"))
    monkeypatch.setattr(upkeep, "_PAGE", 1)
    assert list(ledger.audit("s").batches(1)) == whole
    assert list(ledger.audit("s").generations("p")) == taken
    assert [h.plan.batch_id for h in whole] == ["b1", "b3", "b9"]
    assert (whole[0].state, whole[0].manifest_digest) == (BatchState.LANDED, "m1")
    assert [s.range for s in whole[0].slices] == [OffsetRange(0, 0, 10)]
    assert (whole[1].manifest_digest, whole[1].slices) == (None, ())
    assert whole[2].planned == (OffsetRange(0, 50, 55), OffsetRange(0, 55, 60))
    assert [(t.batch.plan.batch_id, [g.generation for g, _ in t.generations]) for t in taken] == [
        ("b1", [1, 2]), ("b3", [1]),
    ]  # fmt: skip
    assert [p.kind for p in taken[0].generations[0][1]] == ["quarantine", "typed"]
    assert taken[0].generations[1][1] == ()


def test_where_pipelines_stand(ledger: SqlLedger) -> None:
    """The newest generation of each batch; pipelines that are registered, or have taken something and are not."""
    audit = ledger.audit("s")
    assert audit.standings("p") == {"b1": (2, GenerationState.PLANNED), "b3": (1, GenerationState.PLANNED)}
    assert audit.pipelines() == ("p", "q")
    assert audit.declarations("p") == {"r": "{}", "r2": '{"v": 2}'}
    assert (audit.manifest_digest("b1"), audit.manifest_digest("b3"), audit.manifest_digest("x")) == ("m1", None, None)
    assert (audit.raw_bytes(), audit.part_bytes("p"), audit.part_bytes("q")) == (7, 18, 0)


@pytest.mark.parametrize(("statement", "seen"), [
    ("UPDATE slice SET \"end\" = 22 WHERE partition = 0 AND start = 0", "overlaps"),
    ("UPDATE cut_offset SET \"offset\" = 3 WHERE \"offset\" = 5", ""),
    ("UPDATE cut_offset SET \"offset\" = 4 WHERE \"offset\" = 20", "backward_cuts"),
    ("UPDATE batch SET to_cut = NULL WHERE batch_id = 'b1'", "astray"),
])  # fmt: skip
def test_a_ledger_that_contradicts_itself_is_told(ledger: SqlLedger, statement: str, seen: str) -> None:
    """Overlaps, cuts that run backwards and batches between no neighbours are found in the database itself."""
    with ledger.engine.begin() as connection:
        connection.execute(text(statement))
    audit = ledger.audit("s")
    assert [name for name in ("overlaps", "backward_cuts", "astray") if getattr(audit, name)(1)] == [seen] * bool(seen)
    if seen == "overlaps":
        assert audit.overlaps(1) == ((OffsetRange(0, 20, 30), "b3", 22),)
    if seen == "backward_cuts":
        assert audit.backward_cuts(1) == ((0, 300, 4, 10),)
    if seen == "astray":
        assert audit.astray(1) == ("b1",)


def test_a_planning_transaction_can_leave_the_declaration(ledger: SqlLedger) -> None:
    """None locks the stream and changes nothing of it; it tells which generation an input has."""
    with ledger.planning("s", None) as tx:
        assert (tx.allocated("p", "b1", "j"), tx.allocated("p", "b1", "x"), tx.allocated("q", "b1", "i")) == (
            2, None, None,
        )  # fmt: skip
    assert ledger.streams() == (("s", '{"a": 1}'),)


def test_a_slice_can_be_led_to_another_file_of_the_same_rows(ledger: SqlLedger) -> None:
    """File and manifest change together, rows never; another digest changes nothing."""
    [record] = ledger.slices("b1")
    moved = dataclasses.replace(record, file=StagedFile(record.file.path, 99, "other"))
    with pytest.raises(ContentMismatchError):
        ledger.repoint_slice("b1", dataclasses.replace(moved, digest="x"), "m2")
    assert ledger.slices("b1") == (record,)
    ledger.repoint_slice("b1", moved, "m2")
    assert (ledger.slices("b1"), ledger.audit("s").manifest_digest("b1")) == ((moved,), "m2")
    ledger.repoint_slice("b1", moved, None)
    assert ledger.audit("s").manifest_digest("b1") == "m2"


def test_a_part_can_be_led_to_another_file_of_the_same_rows(ledger: SqlLedger) -> None:
    """The same for a part; its neighbours stay."""
    stopped, typed = ledger.parts("p", "b1", 1)
    moved = dataclasses.replace(typed, file=StagedFile(typed.file.path, 99, "other"))
    with pytest.raises(ContentMismatchError):
        ledger.repoint_part("p", "b1", 1, dataclasses.replace(moved, digest="x"))
    ledger.repoint_part("p", "b1", 1, moved)
    assert ledger.parts("p", "b1", 1) == (stopped, moved)
