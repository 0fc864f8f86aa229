"""A pipeline: the recipe over a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_name, printable
from airflow_provider_eventlog.declare import callables
from airflow_provider_eventlog.declare.batch_checks import ColumnChecks, TableChecks
from airflow_provider_eventlog.declare.checks import Check
from airflow_provider_eventlog.declare.completeness import ProducerCounts
from airflow_provider_eventlog.declare.completeness import Sequence as Numbering
from airflow_provider_eventlog.declare.decode import Json, Raw, columns
from airflow_provider_eventlog.declare.duration import milliseconds
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.stream import Stream
from airflow_provider_eventlog.declare.windows import Windows

FRAMES = ("arrow", "pandas")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How a stream's raw records become loaded rows.

    name       names the pipeline in ledger, staging, targets and commands
    stream     the stream it reads; its `decode` and `event_time` are this pipeline's defaults
    transform  SQL over `batch`, row by row (it may filter, add, rename, explode), or a Python function from
               table to table with the same freedom, or None to keep the decoded columns
    schema     {column: type} of a Python function's result; only with one
    frame      what a Python function is given and returns: "arrow" or "pandas". The table has the decoded
               columns and `_key, _timestamp, _headers, _partition, _offset`; the result keeps the last two
    decode, event_time  override the stream's
    checks     row checks, in order
    batch_checks  checks of columns and of the table over all rows of a batch that pass
    completeness  what each batch is held against: counts of its producers, numbers without gaps. Not part of the
               recipe: a held batch may be validated again under another threshold
    outputs    at least one: Rows as they are, Windows as aggregates over time
    quarantine a table to which the quarantine's rows are loaded as well; None keeps them in staging only
    max_quarantine_ratio  a batch of which more is quarantined (of what was quarantined or passed) is held. Not part
               of the recipe: a held batch may be validated again under another one
    version    free text that is part of the recipe, to force a new one
    derived_retention  `eventlog gc` removes a loaded generation's files this long after it was made; None keeps
               them. Not part of the recipe

    Raises DeclarationError. The recipe is the digest of `serialize()`.
    """

    name: str
    _: KW_ONLY
    stream: Stream
    outputs: Sequence[Rows | Windows]
    transform: str | Callable[[Any], Any] | None = None
    schema: Mapping[str, str] | None = None
    frame: str = "arrow"
    decode: Json | Raw | None = None
    event_time: str | None = None
    checks: Sequence[Check] = ()
    version: str = ""
    quarantine: DuckDB | None = None
    max_quarantine_ratio: float = 0.05
    derived_retention: str | timedelta | float | None = None
    completeness: Sequence[ProducerCounts | Numbering] = ()
    batch_checks: Sequence[ColumnChecks | TableChecks] = ()

    def __post_init__(self) -> None:
        check_name("pipeline", self.name)
        where = f"Pipeline {self.name!r}"
        if not isinstance(self.stream, Stream):
            raise DeclarationError(f"{where}: stream={printable(self.stream)} must be a Stream.")
        object.__setattr__(self, "decode", self.decode or self.stream.decode or Raw())
        object.__setattr__(self, "event_time", self.event_time or self.stream.event_time)
        if not isinstance(self.decode, (Json, Raw)):
            raise DeclarationError(f"{where}: decode must be Json(...) or Raw().")
        object.__setattr__(self, "checks", _sequence(where, "checks", self.checks, Check))
        object.__setattr__(self, "batch_checks", self._batch_checks(where))
        object.__setattr__(self, "outputs", _sequence(where, "outputs", self.outputs, Rows, Windows))
        named = _sequence(where, "completeness", self.completeness, ProducerCounts, Numbering)
        object.__setattr__(self, "completeness", named)
        if not self.outputs:
            raise DeclarationError(
                f"{where} needs at least one output, for example Rows(DuckDB('x.duckdb', table='x'))."
            )
        if self.quarantine is not None and not isinstance(self.quarantine, DuckDB):
            raise DeclarationError(
                f"{where}: quarantine={printable(self.quarantine)} must be a target like DuckDB(...)."
            )
        if self.quarantine is not None and any(o.name == "quarantine" for o in self.outputs):
            raise DeclarationError(f"{where}: an output cannot have the name 'quarantine' beside quarantine=.")
        ratio = self.max_quarantine_ratio
        if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 <= ratio <= 1:
            raise DeclarationError(f"{where}: max_quarantine_ratio={printable(ratio)} must be a share from 0 to 1.")
        targets = [o.target for o in self.outputs] + ([self.quarantine] if self.quarantine else [])
        targets += [o.late for o in self.outputs if isinstance(o, Windows) and o.late is not None]
        tables = [(t.path, t.schema.casefold(), t.table.casefold()) for t in targets]
        if len(set(tables)) < len(tables):
            raise DeclarationError(f"{where}: two outputs name the same table; one table has one owner.")
        if self.derived_retention is not None:
            milliseconds("derived_retention", self.derived_retention)
        self._check_transform(where)

    def _batch_checks(self, where: str) -> tuple[ColumnChecks | TableChecks, ...]:
        given = self.batch_checks
        if not isinstance(given, (list, tuple)) or not all(isinstance(c, (ColumnChecks, TableChecks)) for c in given):
            raise DeclarationError(f"{where}: batch_checks must be a list of ColumnChecks(...) or TableChecks(...).")
        names = [c.name for c in self.checks] + [rule.name for of in given for rule in of.rules()]
        for name in names:
            if names.count(name) > 1:
                raise DeclarationError(f"{where}: checks and batch_checks hold the name {name!r} twice.")
        return tuple(given)

    def _check_transform(self, where: str) -> None:
        if self.frame not in FRAMES:
            raise DeclarationError(f"{where}: frame={printable(self.frame)} must be 'arrow' or 'pandas'.")
        if callable(self.transform):
            if self.schema is None:
                raise DeclarationError(f"{where}: a Python transform needs schema={{column: type}} of its result.")
            object.__setattr__(self, "schema", columns(f"{where}: schema", self.schema))
        elif self.schema is not None:
            raise DeclarationError(f"{where}: schema belongs to a Python transform; SQL tells its own.")
        elif self.transform is not None and (not isinstance(self.transform, str) or not self.transform.strip()):
            raise DeclarationError(f"{where}: transform={printable(self.transform)} must be SQL text or a function.")

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values, callables as the digest of their syntax tree."""
        assert self.decode is not None
        transform: Any = self.transform
        if callable(transform):
            transform = {
                "python": callables.fingerprint(transform),
                "frame": self.frame,
                "schema": list((self.schema or {}).items()),
            }
        elif transform is not None:
            transform = {"sql": transform}
        # A pipeline that declares none keeps the text that it is registered with.
        more = {"completeness": [c.canonical() for c in self.completeness]} if self.completeness else {}
        if self.batch_checks:
            more["batch_checks"] = [c.canonical() for c in self.batch_checks]
        return {
            **more,
            "pipeline": self.name,
            "stream": self.stream.canonical(),
            "decode": self.decode.canonical(),
            "event_time": self.event_time,
            "transform": transform,
            "checks": [c.canonical() for c in self.checks],
            "outputs": [o.canonical() for o in self.outputs],
            "version": self.version,
            "quarantine": None if self.quarantine is None else self.quarantine.canonical(),
            "max_quarantine_ratio": self.max_quarantine_ratio,
            "derived_retention_ms": self.derived_retention_ms,
        }

    @property
    def derived_retention_ms(self) -> int | None:
        """The retention of derived files in milliseconds; None for ever."""
        return None if self.derived_retention is None else milliseconds("derived_retention", self.derived_retention)

    def serialize(self) -> str:
        """Canonical JSON: the same text for equal declarations in every process and at every parse."""
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))

    @property
    def recipe(self) -> str:
        """Digest of the recipe; the stream's own knobs are not part of it, since raw data is shared.

        Nor is how long files are kept, how much may be quarantined or missing, which change no row.
        """
        apart = ("stream", "derived_retention_ms", "max_quarantine_ratio", "completeness")
        recipe = {k: v for k, v in self.canonical().items() if k not in apart}
        recipe["stream"] = self.stream.name
        return sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def replace(self, **changes: Any) -> Pipeline:
        """A copy with some arguments changed, for example one pipeline a topic in a loop."""
        return replace(self, **changes)

    def __str__(self) -> str:
        return f"Pipeline({self.name!r}, recipe {self.recipe[:12]})"

    __repr__ = __str__


def _sequence(where: str, knob: str, values: object, *kinds: type) -> tuple[Any, ...]:
    items = tuple(values) if isinstance(values, (list, tuple)) else ()
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, kinds) for v in items):
        named = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
        raise DeclarationError(f"{where}: {knob} must be a list of {named}.")
    names = [v.name for v in items]
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(f"{where}: {knob} hold the name {name!r} twice.")
    return items
