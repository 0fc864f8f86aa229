"""What of a stream's coverage is landed, and what of it is lost, over every kind of ledger."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges
from airflow_provider_eventlog.core.protocols import Ledger, SliceRecord
from tests.contract.ledgers import IDENTITY, off_chain, slice_record


def lost(text: str, *losses: str) -> SliceRecord:
    """A landed slice all of whose gaps are losses."""
    ranges = tuple(map(OffsetRange.parse, losses))
    return replace(slice_record(text, lost=sum(map(len, ranges))), gaps=ranges, losses=ranges)


def test_landed_coverage_and_losses(ledger: Ledger) -> None:
    """Planned is not landed: both are told, merged over slices and batches; losses are ranges, in order."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(off_chain("b1", "0:0-30", "1:0-10", slices=["0:0-10", "0:10-20", "0:20-30", "1:0-10"]))
        tx.add_batch(off_chain("b2", "0:30-40"))
    assert format_ranges(ledger.coverage("s", 1)) == "0:0-40,1:0-10"
    assert ledger.coverage("s", 1, landed=True) == ()
    assert ledger.losses("s", 1) == ()
    ledger.record_slice("b2", lost("0:30-40", "0:30-33", "0:35-36"))
    ledger.record_slice("b1", lost("0:20-30", "0:28-30"))
    ledger.record_slice("b1", slice_record("0:0-10", gaps=["0:3-4"]))
    assert format_ranges(ledger.coverage("s", 1)) == "0:0-40,1:0-10"
    assert format_ranges(ledger.coverage("s", 1, landed=True)) == "0:0-10,0:20-40"
    assert format_ranges(ledger.losses("s", 1)) == "0:28-33,0:35-36"
    assert ledger.losses("s", 2) == ledger.losses("other", 1) == ()
