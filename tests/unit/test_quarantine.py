"""The quarantine and the gate: nothing in a payload stops a batch, everything that is stopped is accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import gate, quarantined, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    CheckFailedError,
    QuarantineLimitError,
    RequestError,
    StagingMissingError,
)
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.transforming import transform_slice
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Raw, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over
from tests.support.rawtables import raw_table

FIELDS = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "ts": "TIMESTAMPTZ", "tags": "BIGINT[]"}
# Payload and the code by which it is stopped.
POISON: list[tuple[bytes, str]] = [
    (b"not json", "not_json"),
    (b"", "not_json"),
    (b"\x00", "not_json"),
    (b"{", "not_json"),
    (b'{"id": 1,}', "not_json"),
    (b'{"id": NaN}', "not_json"),
    (b'{"id": 1} trailing', "not_json"),
    (b'{"s": "\\ud800"}', "not_json"),
    (b"\xff\xfe{}", "not_utf8"),
    (b'{"id": "\xc3\x28"}', "not_utf8"),
    (b"[" * 100_000, "too_deep"),
    (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
    (b"[1, 2]", "not_object"),
    (b"17", "not_object"),
    (b"null", "not_object"),
    (b'{"id": 1e400}', "does_not_fit"),
    (b'{"id": ' + b"9" * 5_000 + b"}", "does_not_fit"),
    (b'{"id": "1"}', "does_not_fit"),
    (b'{"id": 1.5}', "does_not_fit"),
    (b'{"amount": 1.005}', "does_not_fit"),
    (b'{"ts": "yesterday"}', "does_not_fit"),
    (b'{"tags": {"a": 1}}', "does_not_fit"),
]


def pipeline(**knobs: Any) -> Pipeline:
    stream = Stream("orders", name="s", start="earliest", decode=Json(FIELDS))
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    return Pipeline("p", stream=stream, outputs=outputs, **{"max_quarantine_ratio": 1.0, **knobs})


@pytest.fixture
def log() -> ListLog:
    return ListLog([], [])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        yield made


def run(engine: Engine, made: Pipeline, key: str = "r") -> dict[str, Any]:
    return stages.run(engine, made, RunRequest("since_last"), key)


def loaded(home: Path, sql: str = "select id from t order by id") -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def good(*ids: int) -> list[bytes | None]:
    return [json.dumps({"id": i, "amount": i / 4}).encode() for i in ids]


@pytest.mark.parametrize(("payload", "code"), POISON, ids=range(len(POISON)))
def test_poison_is_stopped_with_its_reason(payload: bytes, code: str) -> None:
    """Each hostile payload among good ones is one row in quarantine with its code and its bytes."""
    result = transform_slice(pipeline(), raw_table([*good(1), payload, *good(2)]))
    assert result.table.column("id").to_pylist() == [1, 2]
    assert result.stopped is not None
    (row,) = result.stopped.table().to_pylist()
    assert (row["code"], row["value"], row["_offset"], row["_row"], row["key"]) == (code, payload, 1, -1, b"k1")
    assert row["reason"].isprintable()


def test_hostile_shapes_that_are_sound_go_on() -> None:
    """A repeated key counts by its first value, and a large value, many headers or NUL in a text stop nothing."""
    values = [b'{"id": 1, "id": "x"}', b'{"id": 2, "pad": "' + b"x" * 10_000_000 + b'"}', b'{"id": 3, "n": "\\u0000"}']
    result = transform_slice(pipeline(), raw_table(values))
    assert (result.table.column("id").to_pylist(), result.stopped) == ([1, 2, 3], None)


def test_conserved_down_to_the_table(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Every record is loaded, a tombstone, or in the quarantine: offset by offset, with its bytes."""
    log.values[0] += [*good(0, 1), b"broken", None, *good(4)]
    log.values[1] += [b"[1]", *good(11)]
    checks = [Check("small", "id < 10", on_fail="quarantine")]
    figures = run(engine, pipeline(checks=checks))["validate"]["batches"][0]["accounting"]
    assert figures["transform"] == {
        "landed": 7, "tombstones": 1, "undecodable": 2, "typed": 4, "filtered": 0, "exploded": 0, "rejected": 1,
        "passed": 3,
    }  # fmt: skip
    assert figures["quarantine"] == {"check": 1, "not_json": 1, "not_object": 1}
    assert figures["checks"]["small"] == {
        "rows": 1, "expression": "id < 10", "on_fail": "quarantine", "tolerated": None, "holds": False,
        "first": ["1:1"],
    }  # fmt: skip
    assert loaded(tmp_path) == [(0,), (1,), (4,)]
    rows = [r for t in quarantined.tables(engine.ledger, engine.staging, "p") for r in t.to_pylist()]
    assert [(r["_partition"], r["_offset"], r["_row"], r["stage"], r["check"], r["value"]) for r in rows] == [
        (0, 2, -1, "decode", "", b"broken"),
        (1, 0, -1, "decode", "", b"[1]"),
        (1, 1, 0, "check", "small", good(11)[0]),
    ]
    assert {(r["cluster_id"], r["topic"], r["topic_id"], r["generation"]) for r in rows} == {
        ("cluster", "orders", "topic-id", 1)
    }


def test_rows_without_event_time_are_stopped(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A row whose event time is NULL never goes on; copies of one record are stopped one by one."""
    log.values[0] += [b'{"id": 1, "ts": "2024-01-01", "tags": [1, 2]}', b'{"id": 2, "tags": [1, 2]}']
    made = pipeline(event_time="ts", transform="select id, ts, unnest(tags) as tag from batch")
    run(engine, made)
    assert loaded(tmp_path, "select id, tag from t order by all") == [(1, 1), (1, 2)]
    rows = [r for t in quarantined.tables(engine.ledger, engine.staging, "p") for r in t.to_pylist()]
    assert [(r["_offset"], r["_row"], r["stage"], r["code"]) for r in rows] == [
        (1, 0, "event_time", "no_event_time"),
        (1, 1, "event_time", "no_event_time"),
    ]


def test_a_check_that_warns_stops_nothing_and_is_told(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """on_fail="warn": the rows are loaded, and the accounting has how many broke it."""
    log.values[0] += good(1, 20)
    figures = run(engine, pipeline(checks=[Check("small", "id < 10", on_fail="warn")]))["validate"]["batches"][0]
    assert figures["accounting"]["checks"]["small"]["rows"] == 1
    assert loaded(tmp_path) == [(1,), (20,)]


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (Check("c", "id < 10"), True),
        (Check("c", "id < 10", tolerance=1), True),
        (Check("c", "id < 10", tolerance=2), False),
        (Check("c", "id < 10", tolerance=0.4), True),
        (Check("c", "id < 10", tolerance=0.5), False),
        (Check("c", "id < 10", on_fail="quarantine", tolerance=1), True),
        (Check("c", "id < 10", on_fail="quarantine", tolerance=2), False),
    ],
    ids=str,
)
def test_a_tolerance_is_held_to(engine: Engine, log: ListLog, tmp_path: Path, check: Check, holds: bool) -> None:
    """Two of four rows break the check: it holds the batch exactly where that is more than it tolerates."""
    log.values[0] += good(1, 2, 30, 40)
    if holds:
        with pytest.raises(CheckFailedError, match="2 rows"):
            run(engine, pipeline(checks=[check]))
        assert not (tmp_path / "out.duckdb").exists()
    else:
        run(engine, pipeline(checks=[check]))
        assert len(loaded(tmp_path)) == (2 if check.on_fail == "quarantine" else 4)


def test_a_quarantined_row_does_not_break_other_checks(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A check that would hold the batch looks at the rows that would be loaded."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[Check("a", "id < 10", on_fail="quarantine"), Check("b", "id < 15")]))
    assert loaded(tmp_path) == [(1,)]


def test_the_gate_holds_what_is_mostly_quarantined_until_it_is_released(
    engine: Engine, log: ListLog, tmp_path: Path
) -> None:
    """Above the ratio nothing is visible, later batches go on, and a release lets it pass without Kafka."""
    log.values[0] += [*good(0, 1, 2), b"x"]
    made = pipeline(max_quarantine_ratio=0.2)
    with pytest.raises(QuarantineLimitError, match=r"25\.0%.*1 not_json"):
        run(engine, made)
    assert not (tmp_path / "out.duckdb").exists()
    (held,) = engine.ledger.generations("p")
    assert held.state.value == "held"
    log.values[0] += good(4, 5)
    run(engine, made, "later")
    assert loaded(tmp_path) == [(4,), (5,)]
    said = gate.release(engine, "p", held.batch_id, who="eve", why="known", keep=False)
    assert (said["kept"], engine.ledger.decisions("s")) == (False, ())
    reads = list(log.reads)
    gate.release(engine, "p", held.batch_id, who="eve", why="known")
    run(engine, made)
    assert (loaded(tmp_path), log.reads) == ([(0,), (1,), (2,), (4,), (5,)], reads)
    (decision,) = engine.ledger.decisions("s", "release")
    assert (decision.who, decision.why, decision.payload["generation"]) == ("eve", "known", 1)
    with pytest.raises(RequestError, match="is loaded"):
        gate.release(engine, "p", held.batch_id, who="eve", why="again")


def test_a_corrected_declaration_heals_a_held_batch(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Under a recipe that fits, the run derives its batch again from staging: nothing is left in the quarantine."""
    log.values[0] += [b'{"id": "1"}', b'{"id": "2"}']
    with pytest.raises(QuarantineLimitError):
        run(engine, pipeline(max_quarantine_ratio=0))
    reads = list(log.reads)
    run(engine, pipeline(max_quarantine_ratio=0, decode=Json({**FIELDS, "id": "VARCHAR"})))
    assert (loaded(tmp_path), log.reads) == ([("1",), ("2",)], reads)
    assert quarantined.summary(engine.ledger, engine.staging, "p") == []


def test_the_quarantine_is_loaded_beside_where_it_is_wanted(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The side table has the stopped rows of each batch's visible generation, and loses them with it."""
    log.values[0] += [*good(1), b"x"]
    side = DuckDB("out.duckdb", table="stopped")
    run(engine, pipeline(quarantine=side, transform="select id from batch"))
    found = loaded(tmp_path, "select _offset, code, value, _batch_id = batch_id from stopped")
    assert found == [(1, "not_json", b"x", True)]
    raw = pipeline(quarantine=side, decode=Raw(), transform="select octet_length(value)::BIGINT as id from batch")
    run(engine, raw)
    assert loaded(tmp_path, "select * from stopped") == []


def test_verified_quarantine_parts(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A quarantine part that is gone is missed before anything is loaded."""
    log.values[0] += [*good(1), b"x"]
    made = pipeline()
    plan = stages.plan(engine, made, RunRequest("since_last"), "r")
    for stage in (stages.land, stages.transform):
        for group in range(len(plan.groups)):
            stage(engine, made, "r", group)
    (part,) = [p for p in engine.ledger.parts("p", plan.batches[0].batch.batch_id, 1) if p.kind == "quarantine"]
    file = tmp_path / "staging" / part.file.path
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(StagingMissingError):
        stages.validate(engine, made, "r")
    with pytest.raises(StagingMissingError):
        stages.transform(engine, made, "r", 0)
    file.write_bytes(kept)
    stages.validate(engine, made, "r")


def test_a_quarantine_that_does_not_add_up_is_refused(
    engine: Engine, log: ListLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the quarantine has fewer rows than the transform stopped, the batch fails and says where."""
    log.values[0] += [*good(1), b"x"]
    real = type(engine.ledger).parts

    def short(self: Any, *key: Any) -> Any:
        return tuple(p for p in real(self, *key) if p.kind != "quarantine")

    monkeypatch.setattr(type(engine.ledger), "parts", short)
    with pytest.raises(AccountingError, match=r"offsets 0 to 1.*stopped 1 rows, the quarantine has 0"):
        run(engine, pipeline())


_PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.integers(-5, 50).map(lambda i: b'{"id": %d}' % i),
    st.sampled_from([p for p, _ in POISON if len(p) < 1000]),
    st.none(),
)


@settings(max_examples=60)
@given(values=st.lists(_PAYLOADS, max_size=30), limits=st.lists(st.integers(-5, 50), max_size=3))
def test_conserved_for_any_payloads_and_checks(values: list[bytes | None], limits: list[int]) -> None:
    """Every offset is exactly one of typed, tombstone and undecodable; every row exactly one of passed and rejected."""
    checks = [Check(f"c{n}", f"id < {limit}", on_fail="quarantine") for n, limit in enumerate(limits)]
    result = transform_slice(pipeline(checks=checks), raw_table(values))
    stopped = result.stopped.table().to_pylist() if result.stopped else []
    passed = result.table.column("_offset").to_pylist()
    tombstones = [n for n, value in enumerate(values) if value is None]
    assert sorted([*passed, *tombstones, *(r["_offset"] for r in stopped)]) == list(range(len(values)))
    assert all(values[r["_offset"]] == r["value"] for r in stopped)
    assert [r["_offset"] for r in stopped] == sorted(r["_offset"] for r in stopped)
    assert all(
        i is not None and all(i < limit for limit in limits) for i in result.table.column("id").to_pylist() if limits
    )
    assert result.counts["rejected"] == sum(r["stage"] == "check" for r in stopped)


def test_commands_show_export_and_release(
    engine: Engine, log: ListLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """list, show, export and release speak of the newest generation; hostile payloads come out as data."""
    evil = b'<script>alert(1)</script>\x1b[31m\n"'
    log.values[0] += [*good(1), evil]
    with pytest.raises(QuarantineLimitError):
        run(engine, pipeline(max_quarantine_ratio=0.1))
    batch = engine.ledger.generations("p")[0].batch_id
    where = ["--ledger", str(tmp_path / "ledger.sqlite"), "--staging-root", str(tmp_path / "staging")]

    def call(*words: str) -> tuple[int, Any, str]:
        code = main([*words, "--pipeline", "p", *where, "--output", "json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    code, listed, _ = call("quarantine", "list")
    assert (code, listed["batches"][0]["codes"], listed["batches"][0]["state"]) == (0, {"not_json": 1}, "held")
    code, shown, _ = call("quarantine", "show", "--batch", batch, "--reason", "not_json")
    assert (code, [r["value"].encode() for r in shown["rows"]]) == (0, [evil])
    assert call("quarantine", "show", "--reason", "too_deep")[1]["rows"] == []
    assert main(["quarantine", "show", "--pipeline", "p", *where]) == 0
    assert "\x1b" not in capsys.readouterr().out
    for name in ("x.parquet", "x.jsonl"):
        assert call("quarantine", "export", str(tmp_path / name))[1]["rows"] == 1
        assert call("quarantine", "export", str(tmp_path / name))[0] == 2
    with duckdb.connect() as connection:
        assert connection.execute(f"select value from '{tmp_path}/x.parquet'").fetchall() == [(evil,)]
    assert json.loads((tmp_path / "x.jsonl").read_text())["_offset"] == 1
    assert call("release", "--batch", batch, "--why", "w", "--dry-run")[1]["kept"] is False
    assert call("release", "--batch", batch, "--why", "w")[0] == 0
    assert call("release", "--batch", "none", "--why", "w")[0] == 2
    run(engine, pipeline(max_quarantine_ratio=0.1))
    assert loaded(tmp_path) == [(1,)]
