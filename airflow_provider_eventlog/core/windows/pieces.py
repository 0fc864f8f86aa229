"""Pieces: what a partial result keeps of an aggregate, and the SQL that makes, merges and finishes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
# Integers whose squares fit 64 bits.
_NARROW = frozenset(("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT"))
_WIDE = frozenset(("UINTEGER", "BIGINT", "UBIGINT"))
_FLOATS = frozenset(("FLOAT", "DOUBLE"))
_EXACT = "DECIMAL(38,0)"
_MOMENTS = "STRUCT(n BIGINT, mean DOUBLE, m2 DOUBLE)"
# A wide integer is high * 2^32 + low; the squares' sums of its halves have room for 2^60 rows.
HALF = 2**32
# Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979), by way of
# which Welford's running moments (1962) of two parts become those of the whole.
_CHAN = (
    "lambda a, b: struct_pack(n := a.n + b.n, mean := a.mean + (b.mean - a.mean) * (b.n / (a.n + b.n)), "
    "m2 := a.m2 + b.m2 + (b.mean - a.mean) * (b.mean - a.mean) * (a.n * (b.n / (a.n + b.n))))"
)


def decimal(kind: str) -> tuple[int, int] | None:
    """Precision and scale of a DECIMAL type, (0, 0) of none for other integers; None for what is not exact."""
    match = _DECIMAL.fullmatch(kind)
    if match:
        return int(match[1]), int(match[2])
    return None


def is_integer(kind: str) -> bool:
    """Whether the engine's sum of the type is an integer."""
    return kind in _NARROW or kind in _WIDE or kind in ("HUGEINT", "BOOLEAN")


def scale(kind: str) -> int:
    """Digits after the point of an exact type."""
    found = decimal(kind)
    return found[1] if found else 0


def summable(kind: str) -> bool:
    """Whether sums of the type are merged from partial ones."""
    return is_integer(kind) or kind in _FLOATS or decimal(kind) is not None


def is_float(kind: str) -> bool:
    """Whether sums of the type are rounded."""
    return kind in _FLOATS


def squares(kind: str) -> str:
    """How squares of the type are kept: "square" and "halves" exactly, "moments" as DOUBLE."""
    precision = (decimal(kind) or (99, 0))[0]
    if kind in _NARROW or precision <= 9:
        return "square"
    return "halves" if kind in _WIDE or precision <= 18 else "moments"


@dataclass(frozen=True, slots=True)
class Piece:
    """A column of a partial result.

    name      of the column
    what      count, sum, fsum, min, max, first, last, square, high, cross, low, moments
    argument  SQL of the value, "" for rows as such
    where     SQL of the filter, "" for none
    kind      the argument's engine type, "" for rows as such
    """

    name: str
    what: str
    argument: str
    where: str
    kind: str

    def partial(self) -> str:
        """SQL over rows with `_t, _partition, _offset, _row` that makes the piece of a group."""
        a, kept = self.argument, f" FILTER (WHERE {self.where})" if self.where else ""
        there = f" FILTER (WHERE {f'({self.where}) AND ' if self.where else ''}({a}) IS NOT NULL)"
        if self.what == "count":
            return f"count({a or '*'}){kept}"
        if self.what in ("min", "max"):
            return f"{self.what}({a}){kept}"
        if self.what == "sum":
            return f"CAST(sum({a}){kept} AS {self.stored})"
        if self.what == "fsum":
            return f"sum(CAST({a} AS DOUBLE)){kept}"
        if self.what in ("first", "last"):
            best = "min" if self.what == "first" else "max"
            return f"{best}(struct_pack(t := _t, p := _partition, o := _offset, r := _row, v := {a})){there}"
        if self.what == "moments":
            return _moments(f"CAST({a} AS DOUBLE)", there)
        value = self._unscaled()
        high, low = f"({value} // {HALF})", f"({value} % {HALF})"
        product = {
            "square": f"{value} * {value}",
            "high": f"CAST({high} AS HUGEINT) * {high}",
            "cross": f"CAST({high} AS HUGEINT) * {low}",
            "low": f"CAST({low} AS HUGEINT) * {low}",
        }[self.what]
        return f"CAST(sum({product}){kept} AS {_EXACT})"

    def merge(self, order: str) -> str:
        """SQL over a group of partial results that makes the piece of the whole; `order` is total in each group."""
        n = self.name
        if self.what == "count":
            return f"CAST(coalesce(sum({n}), 0) AS BIGINT)"
        if self.what in ("min", "first"):
            return f"min({n})"
        if self.what in ("max", "last"):
            return f"max({n})"
        if self.what == "fsum":
            return f"sum({n} ORDER BY {order})"
        if self.what == "moments":
            return f"list_reduce(list({n} ORDER BY {order}) FILTER (WHERE {n} IS NOT NULL), {_CHAN})"
        return f"CAST(sum({n}) AS {self.stored})"

    def empty(self) -> str:
        """SQL of the piece of no rows."""
        if self.what == "count":
            return "CAST(0 AS BIGINT)"
        if self.what in ("first", "last"):
            return f"CAST(NULL AS STRUCT(t BIGINT, p INTEGER, o BIGINT, r INTEGER, v {self.kind}))"
        return f"CAST(NULL AS {self.stored})"

    @property
    def stored(self) -> str:
        """The engine type of the column, for all but first and last."""
        if self.what == "sum":
            return f"DECIMAL(38,{scale(self.kind)})"
        if self.what in ("min", "max"):
            return self.kind
        return {"count": "BIGINT", "fsum": "DOUBLE", "moments": _MOMENTS}.get(self.what, _EXACT)

    def _unscaled(self) -> str:
        digits = scale(self.kind)
        value = f"({self.argument})"
        if digits:
            value = f"({value} * CAST({10**digits} AS DECIMAL({digits + 1},0)))"
        wide = "HUGEINT" if self.kind == "UBIGINT" else "BIGINT"
        return f"CAST({value} AS {wide})"


def _moments(value: str, there: str) -> str:
    # The engine's own variance is Welford's; it stops at what is not finite, so that is looked at first.
    count, finite = f"count({value}){there}", f"bool_and(isfinite({value})){there}"
    m2 = f"CASE WHEN {finite} THEN var_pop({value}){there} * {count} ELSE 'nan'::DOUBLE END"
    return f"CASE WHEN {count} > 0 THEN struct_pack(n := {count}, mean := avg({value}){there}, m2 := {m2}) END"
