"""What an audit asks a target, and how a changed table gets its rows back."""

from __future__ import annotations

import pytest

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.errors import TargetOwnedError
from airflow_provider_eventlog.core.holdings import TargetContents
from airflow_provider_eventlog.core.protocols import ApplyResult, LoadedBatch, Outcome, OutputId
from tests.contract import test_target
from tests.contract.test_target import OURS, Room, apply, part, pipeline

room = test_target.room


def test_contents_are_records_and_rows_of_one_moment(room: Room) -> None:
    """All loads as recorded and all rows as they are, strangers' rows too; nothing where there is no table."""
    assert room.target.contents(OURS) == TargetContents((), {})
    assert not room.file.exists()
    apply(room, range(3))
    apply(room, range(10, 15), 2, batch="batch-2")
    apply(room, range(0), batch="empty")
    room.query("insert into orders (id, _batch_id) values (1, 'strange'), (2, null), (3, null)")
    room.query("delete from orders where id = 0")
    found = room.target.contents(OURS)
    assert found.loads == (
        ("batch-1", LoadedBatch(1, "digest-range(0, 3)", 3)),
        ("batch-2", LoadedBatch(2, "digest-range(10, 15)", 5)),
        ("empty", LoadedBatch(1, "digest-range(0, 0)", 0)),
    )
    assert found.rows == {"batch-1": 2, "batch-2": 5, "strange": 1, None: 2}
    with pytest.raises(TargetOwnedError):
        room.target.contents(OutputId("ledger-2", "pipeline-1", "orders"))


@pytest.mark.parametrize("tamper", [
    "delete from orders where id = 1", "insert into orders from orders", "update orders set id = 7",
    "delete from _eventlog_load", "update _eventlog_load set digest = 'x', rows = 9",
    "insert into _eventlog_load from _eventlog_load",
])  # fmt: skip
def test_loading_again_brings_back_what_somebody_changed(room: Room, tamper: str) -> None:
    """The same generation replaces its own rows and records on demand; other batches and later generations stay."""
    apply(room, range(3))
    apply(room, range(10, 12), batch="other")
    rows, loads = room.query("from orders order by all"), room.query("from _eventlog_load order by all")
    room.query(f"{tamper}{' and' if 'where' in tamper else ' where'} "
               f"{'batch_id' if '_eventlog_load' in tamper else '_batch_id'} = 'batch-1'")  # fmt: skip
    schema = partfile.part_schema(pipeline())
    again = room.target.apply_rows(
        OURS, "batch-1", 1, "digest-range(0, 3)", [part(room.home, range(3))], schema, again=True
    )
    assert again == ApplyResult(Outcome.LANDED, 3)
    assert (room.query("from orders order by all"), room.query("from _eventlog_load order by all")) == (rows, loads)
    apply(room, range(20, 29), 2)
    late = room.target.apply_rows(OURS, "batch-1", 1, "d", [], schema, again=True)
    assert late == ApplyResult(Outcome.EXISTED, 9, superseded=True)
    assert len(room.query("from orders")) == 11
