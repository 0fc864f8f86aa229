"""From a record's bytes to typed columns, strictly: what does not fit its declared type does not decode.

What fits, per type; a field that is absent or null is NULL, and of a repeated key the first counts:

    integers            numbers with a whole value within the type's range (`2`, `2.0`, `2e3`)
    DECIMAL(p,s)        numbers that p digits, s of them after the point, hold exactly (`1.50`, not `1.005`)
    FLOAT, DOUBLE       numbers, rounded to the nearest; not those beyond the type's range
    BOOLEAN             true and false
    VARCHAR             strings
    DATE, TIME          strings `2013-01-31`, `05:00[:30[.123456]]`
    TIMESTAMPTZ         strings `2013-01-31[T| ]05:00[:30[.123456]]` with `Z`, an offset or no zone (then UTC); dates
    TIMESTAMP           the same, without an offset other than zero: it would be lost
    UUID                strings
    JSON                anything, as compact text; not numbers that would lose digits as a DOUBLE
    T[]                 arrays whose members fit T

Digits after the microseconds do not fit unless they are zeros.

The engine's own conversion is fast and lenient (it rounds, takes strings for numbers, drops time zones, reads NaN and
trailing commas). So it converts every row, cheap conditions accept the rows for which leniency cannot have played a
part, and the rest is judged in Python, exactly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.errors import DecodeError
from airflow_provider_eventlog.core.fitting import INTEGERS, PATTERNS, judge
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.rawfile import HEADERS
from airflow_provider_eventlog.core.session import CHUNK_ROWS, session
from airflow_provider_eventlog.declare.decode import Json, Raw

if TYPE_CHECKING:
    import duckdb

FIRST = 5
# Text in which the engine's leniency may have played a part: a numeral longer than a DOUBLE's 15 digits, a comma
# before a closing bracket, a literal that JSON does not have. Also matches inside strings, which costs a look.
_BAD = r",\s*[}\]]|[:,\[]\s*-?(?i:nan|inf)"
_LONG = "[0-9.]{17}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoded rows in the raw order: the declared columns, then `_key, _timestamp, _headers, _partition, _offset`."""

    table: pa.Table
    landed: int
    tombstones: int


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Raw records that do not decode, with a code (`fitting.CODES`) and words for each."""

    raw: pa.Table
    codes: list[str]
    reasons: list[str]


_META = (
    pa.field("_key", pa.binary()),
    pa.field("_timestamp", pa.timestamp("ms", "UTC")),
    pa.field("_headers", HEADERS),
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
)


# The years 1 to 9999 in milliseconds since 1970: what the engine, targets and readers can all hold.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


def _readable(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Record timestamps, NULL where a producer gave one outside of the years 1 to 9999."""
    chunks = []
    for chunk in times.chunks:
        values = arrow.numbers(chunk)
        held = (values >= _FIRST_MS) & (values <= _LAST_MS)
        chunks.append(chunk if held.all() else arrow.fixed(values, chunk.type, held & arrow.valid(chunk)))
    return pa.chunked_array(chunks, times.type)


def engine_schema(connection: duckdb.DuckDBPyConnection, columns: dict[str, str]) -> pa.Schema:
    """The Arrow schema in which the engine hands out columns of these (canonical) types."""
    select = ", ".join(f"CAST(NULL AS {kind}) AS {quote(name)}" for name, kind in columns.items())
    return connection.sql(f"SELECT {select}").to_arrow_table().schema


def declared_columns(decode: Json | Raw) -> dict[str, str]:
    """Names and types of the columns that decoding gives, without the meta columns."""
    return dict(decode.fields) if isinstance(decode, Json) else {"value": "BLOB"}


def decoded_schema(decode: Json | Raw) -> pa.Schema:
    """The schema of decoded rows."""
    with session(threads=1) as connection:
        return pa.schema([*engine_schema(connection, declared_columns(decode)), *_META])


def decode_table(decode: Json | Raw, raw: pa.Table) -> Decoded:
    """Decode a raw table whole; raises DecodeError naming how many payloads do not decode and the first five."""
    with session() as connection:
        decoder = Decoder(decode, connection)
        table = decoder.decode(raw)
        decoder.finish()
    return Decoded(table, decoder.landed, decoder.tombstones)


class Decoder:
    """Decodes a slice piece by piece; what does not decode is left out and gathered in `undecodable`."""

    def __init__(self, decode: Json | Raw, connection: duckdb.DuckDBPyConnection) -> None:
        self.landed = 0
        self.tombstones = 0
        self.undecodable: list[Undecodable] = []
        self._connection = connection
        self._columns = declared_columns(decode)
        self.schema = pa.schema([*engine_schema(connection, self._columns), *_META])
        self._json = isinstance(decode, Json)
        self._query = _query(self._columns) if self._json else ""

    def decode(self, raw: pa.Table) -> pa.Table:
        """The typed rows of a raw table; tombstones and what does not decode are left out."""
        self.landed += raw.num_rows
        values = raw.column("value")
        if values.null_count:
            self.tombstones += values.null_count
            raw = raw.filter(pc.is_valid(values))
        if not self._json:
            return self._table([raw.column("value")], raw)
        typed, bad = self._typed(raw)
        rows = self._table(typed, raw)
        if bad is None:
            return rows
        return rows.filter(arrow.flags(~bad))

    @property
    def failed(self) -> int:
        """How many records so far did not decode."""
        return sum(len(u.codes) for u in self.undecodable)

    def finish(self) -> None:
        """Raise DecodeError if any record so far did not decode."""
        if not self.undecodable:
            return
        first: list[str] = []
        for found in self.undecodable:
            raw = found.raw.slice(0, FIRST - len(first))
            columns = (raw.column(name).to_pylist() for name in ("partition", "offset", "value"))
            first += [
                f"partition {p} offset {o}: {reason}, payload {printable(payload)}"
                for p, o, payload, reason in zip(*columns, found.reasons, strict=False)
            ]
        raise DecodeError(
            f"{self.failed} of {self.landed} payloads do not decode as declared, first {'; '.join(first)}. Nothing of "
            f"this slice is kept; correct the declared fields, or decode them with a looser type such as VARCHAR, JSON "
            f"or Raw()."
        )

    def _table(self, typed: list[pa.ChunkedArray], raw: pa.Table) -> pa.Table:
        meta = [raw.column(name) for name in ("key", "timestamp", "headers", "partition", "offset")]
        meta[1] = _readable(meta[1])
        return pa.Table.from_arrays([*typed, *meta], schema=self.schema)

    def _typed(self, raw: pa.Table) -> tuple[list[pa.ChunkedArray], npt.NDArray[np.bool_] | None]:
        """The declared columns of all rows, and which rows do not decode (None: all do)."""
        source = pa.table({"value": raw.column("value"), "offset": raw.column("offset")})
        pieces = pa.Table.from_batches(source.to_batches(max_chunksize=CHUNK_ROWS), source.schema)
        self._connection.register("_raw", pieces)
        try:
            structure = [json.dumps(self._columns), json.dumps(dict.fromkeys(self._columns, "JSON"))]
            result = self._connection.sql(self._query, params=structure).to_arrow_table()
        finally:
            self._connection.unregister("_raw")
        if not result.column("_offset").equals(raw.column("offset")):
            raise DecodeError("Decoding changed the order of rows; nothing is kept. This is a defect, report it.")
        suspects = pc.indices_nonzero(pc.invert(result.column("_sure")))
        bad = self._judge(raw, result, suspects) if len(suspects) else None
        return [result.column(index) for index in range(len(self._columns))], bad

    def _judge(self, raw: pa.Table, result: pa.Table, suspects: pa.Array) -> npt.NDArray[np.bool_] | None:
        looked, judged = raw.take(suspects), result.take(suspects)
        parsed = judged.column("_parsed").to_pylist()
        got = [
            (name, kind, _values(judged.column(index), kind))
            for index, (name, kind) in enumerate(self._columns.items())
        ]
        wrong, codes, reasons = [], [], []
        for row, payload in enumerate(looked.column("value").to_pylist()):
            verdict = judge(payload, parsed[row], ((name, kind, values[row]) for name, kind, values in got))
            if verdict is not None:
                wrong.append(row)
                codes.append(verdict[0])
                reasons.append(verdict[1])
        if not wrong:
            return None
        at = np.array(wrong, np.int64)
        self.undecodable.append(Undecodable(looked.take(arrow.fixed(at, pa.int64())), codes, reasons))
        bad = np.zeros(raw.num_rows, bool)
        bad[arrow.numbers(suspects)[at]] = True
        return bad


def _values(column: pa.ChunkedArray, kind: str) -> list[Any]:
    # Of a text in time's clothes only matters whether the engine could read it.
    base = kind.removesuffix("[]")
    values: list[Any] = (column.is_valid() if base in PATTERNS and base == kind else column).to_pylist()
    return values


def _query(columns: dict[str, str]) -> str:
    """Typed columns, `_offset`, `_parsed` (the text is JSON) and `_sure` (no leniency can have played a part)."""
    names = {name: f"v{index}" for index, name in enumerate(columns)}
    typed = ", ".join(f"s.{quote(n)} AS {v}, CAST(j.{quote(n)} AS VARCHAR) AS t{v}" for n, v in names.items())
    sure = " AND ".join(f"(t{v} IS NULL OR {_sure(columns[n], v, 't' + v)})" for n, v in names.items())
    output = ", ".join(f"{v} AS {quote(n)}" for n, v in names.items())
    return f"""
        SELECT {output}, _offset, _parsed,
               _parsed AND starts_with(x, '{{')
               AND CASE WHEN odd THEN NOT regexp_matches(x, '{_BAD}') ELSE true END
               AND coalesce({sure}, false) AS _sure
        FROM (SELECT {typed}, x, _offset, s IS NOT NULL AND j IS NOT NULL AS _parsed,
                     regexp_matches(x, '{_LONG}|{_BAD}') AS odd
              FROM (SELECT TRY(from_json(x, ?)) AS s, TRY(from_json(x, ?)) AS j, x, _offset
                    FROM (SELECT TRY(decode(value)) AS x, "offset" AS _offset FROM _raw)))
        """  # noqa: S608 - quoted names only


def _sure(kind: str, value: str, token: str) -> str:
    """The condition under which the engine's `value` is exactly what `token`, the field as JSON text, says."""
    present = f"{value} IS NOT NULL"
    number = f"ascii({token}) BETWEEN 45 AND 57"
    # `odd` rows may hold a longer numeral than a DOUBLE, in which tokens are told, can hold.
    exact = f"(NOT odd OR NOT contains({token}, '.'))"
    if kind.endswith("[]"):
        return f"{present} AND CAST(to_json({value}) AS VARCHAR) = {token} AND {exact}"
    if kind in INTEGERS:
        return f"{present} AND {number} AND NOT contains({token}, '.') AND NOT contains({token}, 'e')"
    if kind in ("FLOAT", "DOUBLE"):
        return f"{present} AND {number} AND isfinite({value})"
    if kind.startswith("DECIMAL"):
        scale = int(kind.rstrip(")").rpartition(",")[2])
        digits = f"strpos({token}, '.') = 0 OR length({token}) - strpos({token}, '.') <= {scale}"
        whole = f" OR ends_with({token}, '.0')" if scale == 0 else ""
        return f"{present} AND {number} AND NOT contains({token}, 'e') AND ({digits}{whole}) AND {exact}"
    if kind == "BOOLEAN":
        return f"{token} IN ('true', 'false')"
    if kind == "JSON":
        return f"{present} AND {exact}"
    if kind in PATTERNS:
        return f"{present} AND regexp_full_match({token}, '\"{PATTERNS[kind]}\"')"
    return f"{present} AND starts_with({token}, '\"')"
