"""Which quarantined rows somebody means: by batch, reason code, check and offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges, parse_ranges

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of which all that is given here holds; what is empty says nothing.

    batch_id  of this batch
    codes     stopped for one of these reasons
    checks    stopped by one of these checks
    ranges    of records at these offsets, in the stream's newest epoch unless a batch is named
    """

    batch_id: str | None = None
    codes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    ranges: tuple[OffsetRange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The selection as JSON values; `from_json` reads it back."""
        return {
            "batch": self.batch_id,
            "codes": list(self.codes),
            "checks": list(self.checks),
            "ranges": format_ranges(self.ranges),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """Read `to_json` back; raises RequestError for ranges that cannot be read."""
        ranges = parse_ranges(value["ranges"]) if value["ranges"] else ()
        return cls(value["batch"], tuple(value["codes"]), tuple(value["checks"]), ranges)

    def __str__(self) -> str:
        said = [
            f"batch {printable(self.batch_id, 80)}" if self.batch_id else "",
            f"reason {', '.join(printable(c, 80) for c in self.codes)}" if self.codes else "",
            f"check {', '.join(printable(c, 80) for c in self.checks)}" if self.checks else "",
            f"offsets {printable(format_ranges(self.ranges), 200)}" if self.ranges else "",
        ]
        return ", ".join(word for word in said if word) or "everything"

    def mask(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a quarantine part are meant, the batch apart."""
        import numpy as np

        found = np.ones(rows.num_rows, bool)
        for name, wanted in (("code", self.codes), ("check", self.checks)):
            if wanted:
                found &= np.array([value in wanted for value in rows.column(name).to_pylist()], bool)
        return found & inside(rows, self.ranges) if self.ranges else found


def inside(rows: pa.Table, ranges: tuple[OffsetRange, ...]) -> npt.NDArray[np.bool_]:
    """Which rows have their record (`_partition`, `_offset`) in one of the ranges, which do not overlap."""
    import numpy as np

    from airflow_provider_eventlog.core import arrow

    partitions, offsets = arrow.joined(rows.column("_partition")), arrow.joined(rows.column("_offset"))
    found = np.zeros(rows.num_rows, bool)
    for partition in np.unique(partitions).tolist():
        mine = partitions == partition
        spans = sorted((r.start, r.end) for r in ranges if r.partition == partition and len(r))
        if spans:
            starts, ends = (np.array(side, np.int64) for side in zip(*spans, strict=True))
            at = np.searchsorted(starts, offsets[mine], side="right") - 1
            found[mine] = (at >= 0) & (offsets[mine] < ends[np.maximum(at, 0)])
    return found


def ranges_of(partitions: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> tuple[OffsetRange, ...]:
    """The offsets of records, given in any order and more than once, as the fewest ranges, sorted."""
    import numpy as np

    if not len(offsets):
        return ()
    order = np.lexsort((offsets, partitions))
    partitions, offsets = partitions[order], offsets[order]
    apart = (np.diff(partitions) != 0) | (np.diff(offsets) > 1)
    first = np.concatenate(([0], np.flatnonzero(apart) + 1))
    last = np.concatenate((first[1:] - 1, [len(offsets) - 1]))
    spans = zip(partitions[first].tolist(), offsets[first].tolist(), offsets[last].tolist(), strict=True)
    return tuple(OffsetRange(partition, low, high + 1) for partition, low, high in spans)
