# ruff: noqa: S608 - the SQL below is made of names of this package's own tables
"""Sets of whole numbers by key, as ranges of which both ends belong to them, in SQL. Nothing here depends on order."""

from __future__ import annotations


def islands(numbers: str) -> str:
    """SQL of (key, low, high) of the distinct numbers of a table (key, number)."""
    return f"""
        SELECT key, min(number) AS low, max(number) AS high
        FROM (SELECT key, number, CAST(number AS HUGEINT) - row_number() OVER (PARTITION BY key ORDER BY number) AS run
              FROM (SELECT DISTINCT key, number FROM {numbers}))
        GROUP BY key, run
    """


def union(ranges: str) -> str:
    """SQL of (name, key, low, high): the union of ranges that may overlap or touch; none of the result do."""
    window = "PARTITION BY name, key ORDER BY low, high ROWS BETWEEN UNBOUNDED PRECEDING AND"
    return f"""
        SELECT name, key, min(low) AS low, max(high) AS high
        FROM (SELECT *, sum(CASE WHEN reached IS NULL OR CAST(low AS HUGEINT) > CAST(reached AS HUGEINT) + 1
                                 THEN 1 ELSE 0 END) OVER ({window} CURRENT ROW) AS run
              FROM (SELECT name, key, low, high, max(high) OVER ({window} 1 PRECEDING) AS reached FROM {ranges}))
        GROUP BY name, key, run
    """


def gaps(ranges: str) -> str:
    """SQL of (name, key, low, high): what lies between the ranges of each key, which are as `union` gives them."""
    return f"""
        SELECT name, key, CAST(before + 1 AS BIGINT) AS low, CAST(low - 1 AS BIGINT) AS high
        FROM (SELECT *, CAST(lag(high) OVER (PARTITION BY name, key ORDER BY low) AS HUGEINT) AS before FROM {ranges})
        WHERE before IS NOT NULL
    """


def spans(ranges: str) -> str:
    """SQL of (name, key, low, high): from the lowest to the highest number of each key."""
    return f"SELECT name, key, min(low) AS low, max(high) AS high FROM {ranges} GROUP BY name, key"


def within(ranges: str, spans: str) -> str:
    """SQL of (name, key, low, high): the ranges, cut to their key's span; keys without a span are left out."""
    return f"""
        SELECT r.name, r.key, greatest(r.low, s.low) AS low, least(r.high, s.high) AS high
        FROM {ranges} r JOIN {spans} s ON r.name = s.name AND r.key = s.key AND r.low <= s.high AND s.low <= r.high
    """


def size(ranges: str) -> str:
    """SQL of (name, numbers): how many numbers the ranges of each sequence hold."""
    return f"SELECT name, CAST(sum(CAST(high AS HUGEINT) - low + 1) AS HUGEINT) AS numbers FROM {ranges} GROUP BY name"
