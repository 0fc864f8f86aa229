"""Redrives of random records by random selections, against a reference that knows nothing of files and generations."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core import quarantined, stages
from airflow_provider_eventlog.core.accounting import TRANSFORM
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.selection import Selection, inside, ranges_of
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

Row = tuple[int, int, int, int]
SQL = "select id, unnest(tags) as tag from batch"
_RECORDS = st.one_of(
    st.sampled_from([b"x", b"[]", b'{"id": "1"}', None]),
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)).map(
        lambda one: json.dumps({"id": one[0], "tags": one[1]}).encode()
    ),
)
_LIMITS = st.tuples(st.integers(0, 9), st.integers(0, 9))


def pipeline(limits: tuple[int, int]) -> Pipeline:
    stream = Stream("orders", name="s", start="earliest", max_slice_offsets=3,
                    decode=Json({"id": "BIGINT", "tags": "BIGINT[]"}))  # fmt: skip
    checks = [Check(name, f"{name} <= {most}", on_fail="quarantine") for name, most in zip(("id", "tag"), limits)]  # noqa: B905
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    return Pipeline("p", stream=stream, transform=SQL, outputs=outputs, checks=checks, max_quarantine_ratio=1.0)


def told(value: bytes | None, limits: tuple[int, int]) -> tuple[list[tuple[int, int, int]], list[tuple[int, str]]]:
    """A record's rows that pass, as (row, id, tag), and those that are stopped, as (row, check)."""
    if value is None:
        return [], []
    try:
        known = json.loads(value)
    except ValueError:
        return [], [(-1, "")]
    if not isinstance(known, dict) or isinstance(known["id"], str):
        return [], [(-1, "")]
    passed, stopped = [], []
    for number, tag in enumerate(known["tags"]):
        broken = [n for n, bad in (("id", known["id"] > limits[0]), ("tag", tag > limits[1])) if bad]
        if broken:
            stopped.append((number, broken[0]))
        else:
            passed.append((number, known["id"], tag))
    return passed, stopped


def loaded(home: Path) -> list[tuple[int, ...]]:
    if not (home / "out.duckdb").exists():
        return []
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT _partition, _offset, _row, id, tag FROM t ORDER BY ALL").fetchall()


@settings(max_examples=25)
@given(
    values=st.lists(st.lists(_RECORDS, max_size=8), min_size=2, max_size=2),
    first=_LIMITS,
    second=_LIMITS,
    checks=st.sets(st.sampled_from(["id", "tag"])),
    span=st.none() | st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(5, 8)),
)
def test_conserved_by_any_redrive(
    values: list[list[bytes | None]],
    first: tuple[int, int],
    second: tuple[int, int],
    checks: set[str],
    span: tuple[int, int, int] | None,
) -> None:
    """Chosen records give what the recipe of now makes of them, all others what they gave; every row is somewhere."""
    ranges = () if span is None else (OffsetRange(*span),)
    places = {(p, o): value for p, of in enumerate(values) for o, value in enumerate(of)}
    meant = {
        at
        for at, value in places.items()
        if any(not checks or check in checks for _, check in told(value, first)[1])
        and all(at[0] == r.partition and r.start <= at[1] < r.end for r in ranges)
    }
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ticks = iter(range(10**9))
        with engine_over(ListLog(*values), home, lambda: FIRST_MS + 10_000_000 + next(ticks)) as engine:
            stages.run(engine, pipeline(first), RunRequest("since_last"), "r")
            wanted = Selection(checks=tuple(sorted(checks)), ranges=ranges)
            request = RunRequest("redrive", selection=wanted, who="eve", why="a test")
            figures: dict[str, Any] | None = None
            try:
                figures = stages.run(engine, pipeline(second), request)["validate"]["batches"][0]["accounting"]
            except RequestError:
                assert not meant or first == second
            recipes = {at: second if at in meant and figures is not None else first for at in places}
            every = {at: told(value, recipes[at]) for at, value in places.items()}
            assert loaded(home) == sorted((*at, *row) for at, (passed, _) in every.items() for row in passed)
            stopped = [r for t in quarantined.tables(engine.ledger, engine.staging, "p") for r in t.to_pylist()]
            assert sorted((r["_partition"], r["_offset"], r["_row"], r["check"]) for r in stopped) == sorted(
                (*at, row, check) for at, (_, of) in every.items() for row, check in of
            )
            assert all(places[r["_partition"], r["_offset"]] == r["value"] for r in stopped)
            if figures is not None:
                counts = [figures["transform"][name] for name in TRANSFORM]
                assert counts == [_counts(places, every)[name] for name in TRANSFORM]


def _counts(places: dict[tuple[int, int], bytes | None], every: dict[tuple[int, int], Any]) -> dict[str, int]:
    """The accounting, told one record at a time."""
    undecodable = sum(of == [(-1, "")] for _, of in every.values())
    tombstones = sum(value is None for value in places.values())
    rows = [len(passed) + len(of) for at, (passed, of) in every.items() if places[at] is not None and of != [(-1, "")]]
    return {
        "landed": len(places),
        "tombstones": tombstones,
        "undecodable": undecodable,
        "typed": len(rows),
        "filtered": sum(number == 0 for number in rows),
        "exploded": sum(max(0, number - 1) for number in rows),
        "rejected": sum(len(of) for _, of in every.values()) - undecodable,
        "passed": sum(len(passed) for passed, _ in every.values()),
    }


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30))))
def test_ranges_are_the_positions_and_no_others(positions: list[tuple[int, int]]) -> None:
    """Positions in any order, given more than once, come back from their ranges, which are as few as can be."""
    import numpy as np
    import pyarrow as pa

    partitions, offsets = (np.array([p[i] for p in positions], np.int64) for i in (0, 1))
    found = ranges_of(partitions, offsets)
    assert [(r.partition, o) for r in found for o in range(r.start, r.end)] == sorted(set(positions))
    assert all((a.partition, a.end) < (b.partition, b.start) for a, b in pairwise(found))
    everywhere = [(p, o) for p in range(5) for o in range(32)]
    table = pa.table({"_partition": [p for p, _ in everywhere], "_offset": [o for _, o in everywhere]})
    assert [at for at, there in zip(everywhere, inside(table, found), strict=True) if there] == sorted(set(positions))
