"""What a run is asked to take: an interval, what is new, explicit offsets, quarantined rows, or what was left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges, parse_ranges
from airflow_provider_eventlog.core.selection import Selection

MODES = ("interval", "since_last", "offsets", "redrive", "resume")
GAPS = ("absorb", "hole")


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody decides by a run, before it goes on with what that lets pass.

    kind      "release" of a held batch, or "skip": windows wait no more for a batch, or for a hole
    batch_id  the batch
    hole      for skip without a batch: where the hole begins, in milliseconds since 1970 UTC

    Raises RequestError for a combination that has no meaning.
    """

    kind: str
    batch_id: str | None = None
    hole: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("release", "skip"):
            raise RequestError(f"The act {self.kind!r} is neither release nor skip.")
        if (self.batch_id is None) == (self.hole is None) or (self.kind == "release" and self.batch_id is None):
            what = "a batch" if self.kind == "release" else "either a batch or the instant at which a hole begins"
            raise RequestError(f"To {self.kind}, name {what}.")

    def to_json(self) -> dict[str, Any]:
        """The act as JSON values; `Act(**value)` reads it back."""
        return {"kind": self.kind, "batch_id": self.batch_id, "hole": self.hole}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run's request.

    mode         interval, since_last, offsets, redrive, or resume: no new offsets, but what was left validated or
                 held and released, and what windows can take
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
    act          what is decided before a run of mode resume goes on
    who, why     who asks for a redrive or an act and what for; kept with the decision, not part of what is asked

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
    act: Act | None = None
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
        if self.act is not None and self.mode != "resume":
            raise RequestError(f"Mode {self.mode} takes no act.")
        if (self.act or self.selection) and not (self.who and self.why.strip()):
            named = self.act.kind if self.act else "redrive"
            raise RequestError(f"A {named} needs to be told who asks for it and why; both are kept with the decision.")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise RequestError(
                f"The interval {self.interval[0]} to {self.interval[1]} is empty or reversed; its start must lie "
                f"before its end (a cron preset such as '@hourly' gives empty ones: use CronDataIntervalTimetable)."
            )
        if not 1 <= self.parallelism <= 512:
            raise RequestError(f"parallelism={self.parallelism} must be between 1 and 512.")
        if self.epoch is not None and (self.mode != "offsets" or self.epoch < 1):
            raise RequestError(f"epoch={self.epoch} goes with mode offsets and is counted from 1.")
        if self.recompute and self.mode in ("since_last", "resume"):
            raise RequestError(
                f"recompute has no meaning for mode {self.mode}: nothing of it was computed yet. Name the interval or "
                f"the offsets to compute anew."
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
            **({"selection": self.selection.to_json()} if self.selection else {}),
            **({"act": self.act.to_json()} if self.act else {}),
            **({"who": self.who, "why": self.why} if self.selection or self.act else {}),
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
            act=Act(**value["act"]) if value.get("act") else None,
            who=value.get("who", ""),
            why=value.get("why", ""),
        )

    def digest(self) -> str:
        """Digest of what is asked, without parallelism, which changes no byte, and without who asks."""
        asked = {k: v for k, v in self.to_json().items() if k not in ("parallelism", "who", "why")}
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
