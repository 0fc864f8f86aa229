"""Comparing the rows of two generations by position: file by file, in an engine that spills to a scratch folder.

A position is (partition, offset, _row). Rows are compared by the columns that both sides have. Where a column's type
differs, two values are equal if each, cast to the other's type, is the other one. NaN equals NaN, NULL equals NULL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.naming import quote

if TYPE_CHECKING:
    import duckdb

POSITION = ("_partition", "_offset", "_row")
ONLY_BEFORE, ONLY_AFTER, CHANGED, EQUAL = "only_before", "only_after", "changed", "equal"
KINDS = (ONLY_BEFORE, ONLY_AFTER, CHANGED)
# A value in an example is cut to so many characters; a digest of the whole tells two long ones apart.
SHOWN = 200
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "threads": "2",
    "memory_limit": "1GB",
}
_KEYS = ", ".join(POSITION)
# NULL on the side that has no row at a position.
_INNER = (*POSITION, "_known")
_JOIN = f"FROM before b FULL JOIN after a USING ({_KEYS})"


@dataclass(frozen=True, slots=True)
class Sides:
    """One slice on both sides: Parquet files of rows, and of what was stopped (None for nothing)."""

    before: Path
    after: Path
    stopped_before: Path | None
    stopped_after: Path | None


@dataclass(slots=True)
class Comparison:
    """What was found so far.

    rows      how many positions are equal, changed, or only on one side
    columns   in how many changed rows a column differs
    reasons   (code, check) -> rows stopped before and after, and the first reason by position
    examples  the first positions of each kind
    """

    rows: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    reasons: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


class Comparer:
    """Adds one slice after the other to `found`; slices are given in the order of their positions.

    limit  how many examples of each kind are kept
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, limit: int) -> None:
        self._connection, self._limit = connection, limit
        self.found = Comparison()

    def add(self, sides: Sides) -> None:
        """Compare one slice; its files stay as they are."""
        for name, path in (("before", sides.before), ("after", sides.after)):
            self._view(name, path)
        left, right = self._columns("before"), self._columns("after")
        shared = [name for name in right if name in left]
        differs = {name: self._differs(name, left[name], right[name]) for name in shared}
        changed = " OR ".join(differs.values()) or "false"
        self._count(changed, differs)
        self._reasons(sides)
        if self._limit:
            self._examples(sides, changed, differs, list(left), list(right))

    def _view(self, name: str, path: Path) -> None:
        self._connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT true AS _known, * FROM {_file(path)}"  # noqa: S608
        )

    def _columns(self, view: str) -> dict[str, str]:
        relation = self._connection.table(view)
        kinds = zip(relation.columns, relation.types, strict=True)
        return {name: str(kind) for name, kind in kinds if name not in _INNER}

    def _differs(self, name: str, left: str, right: str) -> str:
        """SQL that says whether a column differs; true or false, never NULL."""
        b, a = f"b.{quote(name)}", f"a.{quote(name)}"
        if left == right:
            return f"{b} IS DISTINCT FROM {a}"
        nulls = f"(({b} IS NULL) <> ({a} IS NULL))"
        if not (self._casts(left, right) and self._casts(right, left)):
            return f"({nulls} OR {b} IS NOT NULL)"
        there, back = f"TRY_CAST({b} AS {right}) IS DISTINCT FROM {a}", f"TRY_CAST({a} AS {left}) IS DISTINCT FROM {b}"
        return f"({nulls} OR {there} OR {back})"

    def _casts(self, one: str, other: str) -> bool:
        import duckdb

        try:
            self._connection.execute(f"SELECT TRY_CAST(CAST(NULL AS {one}) AS {other})").fetchall()
        except duckdb.Error:
            return False
        return True

    def _count(self, changed: str, differs: dict[str, str]) -> None:
        both = "a._known AND b._known"
        wanted = [
            "count(*) FILTER (WHERE a._known IS NULL)",
            "count(*) FILTER (WHERE b._known IS NULL)",
            f"count(*) FILTER (WHERE {both} AND ({changed}))",
            f"count(*) FILTER (WHERE {both} AND NOT ({changed}))",
            *(f"count(*) FILTER (WHERE {both} AND {condition})" for condition in differs.values()),
        ]
        row = self._connection.execute(f"SELECT {', '.join(wanted)} {_JOIN}").fetchall()[0]
        self.found.rows.update(dict(zip((*KINDS, EQUAL), row[:4], strict=True)))
        self.found.columns.update({name: n for name, n in zip(differs, row[4:], strict=True) if n})

    def _reasons(self, sides: Sides) -> None:
        for side, path in (("before", sides.stopped_before), ("after", sides.stopped_after)):
            if path is None:
                continue
            rows = self._connection.execute(
                f'SELECT code, "check", count(*), left(arg_min(reason, ({_KEYS})), {SHOWN}) '  # noqa: S608
                f"FROM {_file(path)} GROUP BY ALL ORDER BY ALL"
            ).fetchall()
            for code, check, count, reason in rows:
                known = self.found.reasons.setdefault((code, check), {"before": 0, "after": 0, "first": reason})
                known[side] += count

    def _examples(self, sides: Sides, changed: str, differs: dict[str, str], left: list[str], right: list[str]) -> None:
        missing = {kind: self._limit - len(self.found.examples[kind]) for kind in KINDS}
        if max(missing.values()) == 0:
            return
        room = " ".join(f"WHEN '{kind}' THEN {count}" for kind, count in missing.items())
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE picked AS SELECT {_KEYS}, kind FROM ("  # noqa: S608
            f"SELECT {_KEYS}, CASE WHEN a._known IS NULL THEN '{ONLY_BEFORE}' WHEN b._known IS NULL THEN '{ONLY_AFTER}'"
            f" WHEN {changed} THEN '{CHANGED}' END AS kind {_JOIN}) WHERE kind IS NOT NULL "
            f"QUALIFY row_number() OVER (PARTITION BY kind ORDER BY {_KEYS}) <= CASE kind {room} END"
        )
        why = {
            ONLY_BEFORE: self._stopped(sides.stopped_after),
            ONLY_AFTER: self._stopped(sides.stopped_before),
        }
        shown = list(dict.fromkeys([*left, *right]))
        cells = [cell for name in shown for cell in _cells(name, name in left, name in right, differs.get(name))]
        query = (
            f"SELECT p.kind, {', '.join(f'p.{key}' for key in POSITION)}{''.join(f', {c}' for c in cells)} "  # noqa: S608
            f"FROM picked p LEFT JOIN before b USING ({_KEYS}) LEFT JOIN after a USING ({_KEYS}) "
            f"ORDER BY {', '.join(f'p.{key}' for key in POSITION)}"
        )
        for kind, partition, offset, number, *values in self._connection.execute(query).fetchall():
            example = {"partition": partition, "offset": offset, "row": number}
            example["columns"] = dict(_values(kind, shown, values))
            if kind in why:
                example["instead"] = _instead(why[kind], partition, offset, number)
            self.found.examples[kind].append(example)

    def _stopped(self, path: Path | None) -> dict[tuple[int, int, int], str]:
        """What was stopped at the picked positions; a record that did not decode stands under row -1."""
        if path is None:
            return {}
        rows = self._connection.execute(
            f"SELECT q._partition, q._offset, q._row, code || ': ' || left(reason, {SHOWN}) FROM {_file(path)} q "  # noqa: S608
            f"SEMI JOIN picked p ON q._partition = p._partition AND q._offset = p._offset"
        ).fetchall()
        return {(partition, offset, row): text for partition, offset, row, text in rows}


@contextmanager
def comparer(scratch: Path, limit: int) -> Iterator[Comparer]:
    """A comparer whose engine spills into `scratch`; no SQL of the user's runs in it."""
    import duckdb

    connection = duckdb.connect(config={**_CONFIG, "temp_directory": str(scratch / "spilt")})
    try:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        yield Comparer(connection, limit)
    finally:
        connection.close()


def _file(path: Path) -> str:
    """A Parquet file as a relation: nothing in its name is taken for a pattern or for SQL."""
    text = "".join(f"[{c}]" if c in "*?[" else c for c in str(path))
    # Folders named like batch=... are no columns: a column of that name may be in the file.
    return "read_parquet('" + text.replace("'", "''") + "', hive_partitioning = false)"


def _cells(name: str, left: bool, right: bool, differs: str | None) -> Iterator[str]:
    """What is read of one column: on both sides the beginning of its text, its length and digest; and if it differs."""
    for there, side in ((left, "b"), (right, "a")):
        text = f"CAST({side}.{quote(name)} AS VARCHAR)" if there else "CAST(NULL AS VARCHAR)"
        yield from (f"left({text}, {SHOWN})", f"length({text})", f"left(md5({text}), 8)")
    yield differs or "false"


def _values(kind: str, names: Sequence[str], values: Sequence[Any]) -> Iterator[tuple[str, dict[str, str | None]]]:
    for index, name in enumerate(names):
        *cells, differs = values[7 * index : 7 * index + 7]
        before, after = _text(*cells[:3]), _text(*cells[3:])
        if kind == CHANGED and differs:
            yield name, {"before": before, "after": after}
        elif kind == ONLY_BEFORE and before is not None:
            yield name, {"before": before}
        elif kind == ONLY_AFTER and after is not None:
            yield name, {"after": after}


def _text(start: str | None, length: int | None, digest: str | None) -> str | None:
    if start is None or length is None or length <= SHOWN:
        return start
    return f"{start}... ({length} characters, md5 {digest})"


def _instead(stopped: dict[tuple[int, int, int], str], partition: int, offset: int, row: int) -> str | None:
    """Why a position has no row on the other side; None if nothing was stopped there: the transform gave none."""
    return stopped.get((partition, offset, row)) or stopped.get((partition, offset, -1))
