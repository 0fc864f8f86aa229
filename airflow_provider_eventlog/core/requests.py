"""What a run is asked to take: an interval, everything since the last batch, explicit offsets, or quarantined rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges, parse_ranges
from airflow_provider_eventlog.core.selection import Selection

MODES = ("interval", "since_last", "offsets", "redrive")
GAPS = ("absorb", "hole")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run's request.

    mode         interval, since_last, offsets or redrive
    interval     [start, end) in milliseconds since 1970 UTC, for mode interval
    ranges       the explicit offsets, for mode offsets
    gap          where the interval's start has no cut but an older one exists: "absorb" starts at the newest
                 cut before the interval's end, "hole" leaves the hole for the run whose interval it is
    first        the interval is the first of its schedule: with start="earliest" it takes all that came before
    max_batches  since_last takes at most so many batches (None: no bound)
    parallelism  into at most how many groups the slices are packed
    epoch        offsets of this epoch of the stream, not of the newest one; for mode offsets
    recompute    a new generation of each batch, also where recipe and raw data are those of one that exists: for
                 transforms that read more than their input; not for mode since_last, which takes what has none yet.
                 With mode redrive also rows that the recipe of now has stopped already
    selection    which quarantined rows are run again, for mode redrive
    who, why     who asks for a redrive and what for; kept with the decision, not part of what is asked

    Raises RequestError for a combination that has no meaning.
    """

    mode: str
    interval: tuple[int, int] | None = None
    ranges: tuple[OffsetRange, ...] = ()
    gap: str = "absorb"
    first: bool = False
    max_batches: int | None = None
    parallelism: int = 4
    epoch: int | None = None
    recompute: bool = False
    selection: Selection | None = None
    who: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RequestError(f"The mode {self.mode!r} is not one of {', '.join(MODES)}.")
        if self.gap not in GAPS:
            raise RequestError(f"gap={self.gap!r} is not one of {', '.join(GAPS)}.")
        if (self.interval is None) == (self.mode == "interval"):
            raise RequestError(f"Mode {self.mode} {'needs' if self.mode == 'interval' else 'takes no'} interval.")
        if bool(self.ranges) != (self.mode == "offsets"):
            raise RequestError(f"Mode {self.mode} {'needs' if self.mode == 'offsets' else 'takes no'} offset ranges.")
        if (self.selection is None) == (self.mode == "redrive"):
            raise RequestError(f"Mode {self.mode} {'needs' if self.mode == 'redrive' else 'takes no'} selection.")
        if self.mode == "redrive" and not (self.who and self.why):
            raise RequestError("A redrive needs to be told who asks for it and why; both are kept with the decision.")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise RequestError(
                f"The interval {self.interval[0]} to {self.interval[1]} is empty or reversed; its start must lie "
                f"before its end (a cron preset such as '@hourly' gives empty ones: use CronDataIntervalTimetable)."
            )
        if not 1 <= self.parallelism <= 512:
            raise RequestError(f"parallelism={self.parallelism} must be between 1 and 512.")
        if self.epoch is not None and (self.mode != "offsets" or self.epoch < 1):
            raise RequestError(f"epoch={self.epoch} goes with mode offsets and is counted from 1.")
        if self.recompute and self.mode == "since_last":
            raise RequestError(
                "recompute has no meaning for what came since the last batch: nothing of it was computed yet. Name the "
                "interval or the offsets to compute anew."
            )
        if self.max_batches is not None and self.max_batches < 1:
            raise RequestError(f"max_batches={self.max_batches} must be at least 1.")

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values; `from_json` reads it back."""
        return {
            "mode": self.mode,
            "interval": list(self.interval) if self.interval else None,
            "ranges": format_ranges(self.ranges) if self.ranges else None,
            "gap": self.gap,
            "first": self.first,
            "max_batches": self.max_batches,
            "parallelism": self.parallelism,
            "epoch": self.epoch,
            "recompute": self.recompute,
            **({"selection": self.selection.to_json(), "who": self.who, "why": self.why} if self.selection else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRequest:
        """Read `to_json` back."""
        interval = value.get("interval")
        return cls(
            mode=value["mode"],
            interval=(interval[0], interval[1]) if interval else None,
            ranges=parse_ranges(value["ranges"]) if value.get("ranges") else (),
            gap=value.get("gap", "absorb"),
            first=value.get("first", False),
            max_batches=value.get("max_batches"),
            parallelism=value.get("parallelism", 4),
            epoch=value.get("epoch"),
            recompute=value.get("recompute", False),
            selection=Selection.from_json(value["selection"]) if value.get("selection") else None,
            who=value.get("who", ""),
            why=value.get("why", ""),
        )

    def digest(self) -> str:
        """Digest of what is asked, without parallelism, which changes no byte, and without who asks."""
        asked = {k: v for k, v in self.to_json().items() if k not in ("parallelism", "who", "why")}
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
