"""`eventlog diff`: what a recipe would change in a batch, found without changing anything."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.comparing import SHOWN, Sides, comparer
from airflow_provider_eventlog.core.difference import difference
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, NotReadyError, RawExpiredError, RequestError
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.retention import EXPIRED, raw_payload
from airflow_provider_eventlog.core.values import Decision
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over
from tests.unit.folding import world

FIELDS = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "name": "VARCHAR"}
HOSTILE = "</script><script>alert(1)</script>\u202e\u0000" + "x" * 100_000


def pipeline(**knobs: Any) -> Pipeline:
    """A pipeline of SQL over rows; small slices, so that a batch has several."""
    stream = Stream("orders", name="s", start="earliest", decode=Json(FIELDS), max_slice_offsets=4)
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    given = {"transform": "select id, amount, name from batch", "max_quarantine_ratio": 1.0, **knobs}
    return Pipeline("p", stream=stream, outputs=outputs, **given)


def at(home: Path) -> list[str]:
    """Where a command finds the engine's stores."""
    return ["--home", str(home), "--staging-root", str(home / "staging"), "--ledger", str(home / "ledger.sqlite")]


def record(number: int, **more: Any) -> bytes:
    """One order."""
    return json.dumps({"id": number, "amount": number / 4, "name": f"n{number}", **more}).encode()


@pytest.fixture
def log() -> ListLog:
    """Two partitions: ten sound orders with one broken record among them, and five."""
    first: list[bytes | None] = [record(n) for n in range(10)]
    first[3] = b"not json"
    return ListLog(first, [record(100 + n) for n in range(5)])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    """The engine over that log."""
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        yield made


def batch_of(engine: Engine, made: Pipeline, key: str = "r") -> str:
    """The one batch of a run from plan to load."""
    report = stages.run(engine, made, RunRequest("since_last"), key)
    return str(report["validate"]["batches"][0]["batch_id"])


def test_the_same_recipe_differs_in_nothing_and_says_so(engine: Engine) -> None:
    """Under the published recipe every row is equal, the quarantine too, and a note says that it is the same."""
    found = difference(engine, pipeline(), batch_of(engine, pipeline()))
    assert found["rows"] == {
        "before": 14, "after": 14, "only_before": 0, "only_after": 0, "changed": 0, "equal": 14,
    }  # fmt: skip
    assert found["recipe"]["same"]
    assert "the one that made the published generation" in found["notes"][0]
    assert found["quarantine"]["before"] == found["quarantine"]["after"] == {"not_json": 1}
    assert (found["schema"], found["changed_columns"]) == ([], {})
    assert all(not examples for examples in found["examples"].values())
    assert found["accounting"]["before"] == found["accounting"]["after"]


def test_counts_and_examples_name_every_kind_of_difference(engine: Engine) -> None:
    """Changed values, rows that go and rows that come are counted each, with positions and both values."""
    before = pipeline(transform="select id, amount, name from batch where id <> 1")
    batch = batch_of(engine, before)
    after = pipeline(
        transform="select id, case when id = 2 then amount + 1 else amount end as amount, name from batch",
        checks=[Check("small", "id < 104", on_fail="quarantine")],
    )
    found = difference(engine, after, batch, limit=5)
    assert found["rows"] == {
        "before": 13, "after": 13, "only_before": 1, "only_after": 1, "changed": 1, "equal": 11,
    }  # fmt: skip
    assert found["changed_columns"] == {"amount": 1}
    assert found["examples"]["changed"] == [
        {"partition": 0, "offset": 2, "row": 0, "columns": {"amount": {"before": "0.50", "after": "1.50"}}}
    ]
    (gone,) = found["examples"]["only_before"]
    assert sorted(gone["columns"]) == ["amount", "id", "name"]
    assert (gone["partition"], gone["offset"], gone["instead"]) == (1, 4, "check: not true: id < 104")
    (come,) = found["examples"]["only_after"]
    assert (come["offset"], come["columns"]["name"], come["instead"]) == (1, {"after": "n1"}, None)
    assert found["quarantine"]["before"] == {"not_json": 1}
    assert found["quarantine"]["after"] == {"check": 1, "not_json": 1}
    assert [(r["code"], r["check"], r["before"], r["after"]) for r in found["quarantine"]["reasons"]] == [
        ("check", "small", 0, 1),
        ("not_json", "", 1, 1),
    ]
    (check,) = found["checks"]
    assert (check["before"], check["after"]["verdict"], check["after"]["rows"]) == (None, "broken", 1)


def test_copies_of_one_record_are_told_apart(engine: Engine) -> None:
    """Rows of one offset are compared by their number: a copy more is one row more, not a change of all."""
    batch = batch_of(engine, pipeline(transform="select id, unnest([1, 2]) as part from batch"))
    found = difference(engine, pipeline(transform="select id, unnest([1, 3, 4]) as part from batch"), batch, limit=1)
    assert (found["rows"]["equal"], found["rows"]["changed"], found["rows"]["only_after"]) == (14, 14, 14)
    assert [(e["offset"], e["row"]) for e in found["examples"]["changed"]] == [(0, 1)]
    assert [(e["offset"], e["row"]) for e in found["examples"]["only_after"]] == [(0, 2)]


def test_folders_of_staging_are_no_columns(engine: Engine) -> None:
    """Columns that are named like staging's folders are compared as the file has them, and no folder becomes one."""
    sql = "select id as batch, {} as gen, name as pipeline from batch where id <> {}"
    batch = batch_of(engine, pipeline(transform=sql.format("id", 5)))
    found = difference(engine, pipeline(transform=sql.format("id + 1", 6)), batch)
    assert found["changed_columns"] == {"gen": 12}
    (gone,) = found["examples"]["only_before"]
    assert gone["columns"] == {"batch": {"before": "6"}, "gen": {"before": "6"}, "pipeline": {"before": "n6"}}


def test_columns_that_come_go_or_change_their_type_are_told(engine: Engine) -> None:
    """Schema differences are told by column; a value that is the same under another type is no change."""
    batch = batch_of(engine, pipeline())
    sql = "select cast(id as varchar) as id, amount * 1.0 as amount, 1 as one from batch"
    found = difference(engine, pipeline(transform=sql), batch)
    assert found["schema"] == [
        {"column": "id", "before": "BIGINT", "after": "VARCHAR"},
        {"column": "amount", "before": "DECIMAL(12,2)", "after": "DECIMAL(14,3)"},
        {"column": "name", "before": "VARCHAR", "after": None},
        {"column": "one", "before": None, "after": "INTEGER"},
    ]
    assert found["rows"]["equal"] == 14


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        ("1::BIGINT", "'1'", True),
        ("1::BIGINT", "'01'", False),
        ("1.5::DOUBLE", "2::BIGINT", False),
        ("NULL::BIGINT", "NULL::VARCHAR", True),
        ("NULL::BIGINT", "'x'", False),
        ("1::BIGINT", "[1]", False),
        ("'NaN'::DOUBLE", "'NaN'::FLOAT", True),
        ("'NaN'::DOUBLE", "'NaN'::DOUBLE", True),
        ("DATE '2024-01-01'", "TIMESTAMP '2024-01-01'", True),
        ("{'a': 1}", "{'a': 2}", False),
        ("'\\x00'::BLOB", "'\\x00'::BLOB", True),
    ],
)
def test_values_of_another_type_are_equal_if_they_cast_both_ways(
    tmp_path: Path, before: str, after: str, equal: bool
) -> None:
    """Equality across types is that of casting there and back; types that do not cast differ, but for NULL."""
    import duckdb

    folder = tmp_path / "it's a [scratch] *?"
    folder.mkdir()
    for name, value in (("before", before), ("after", after)):
        query = f"select {value} as v, 0::INTEGER as _partition, 7::BIGINT as _offset, 0::INTEGER as _row"
        with duckdb.connect() as connection:
            pq.write_table(connection.sql(query).to_arrow_table(), folder / name)
    with comparer(folder, 1) as comparing:
        comparing.add(Sides(folder / "before", folder / "after", None, None))
        assert +comparing.found.rows == {"equal" if equal else "changed": 1}
        assert len(comparing.found.examples["changed"]) == (0 if equal else 1)


def test_nothing_changes_byte_for_byte(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ledger, staging and target are the same bytes before and after, though the rows differ."""
    batch = batch_of(engine, pipeline())
    engine.close()

    def contents() -> dict[str, str]:
        files = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".py")
        return {str(p.relative_to(tmp_path)): sha256(p.read_bytes()).hexdigest() for p in files}

    file = tmp_path / "declared.py"
    file.write_text(DECLARED)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = list(ledger.iterdump())
    ledger.close()
    before = contents()
    assert any(name.endswith("ledger.sqlite") for name in before)
    assert any("/typed/" in name for name in before)
    code = main(["diff", "--pipeline", f"{file}:p", "--batch", batch, *at(tmp_path), "--output", "json"])
    document = json.loads(capsys.readouterr().out)
    assert (code, document["rows"]["changed"]) == (0, 14)
    assert contents() == before
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        assert list(ledger.iterdump()) == rows
    ledger.close()


DECLARED = """
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
stream = Stream("orders", name="s", start="earliest", max_slice_offsets=4,
                decode=Json({"id": "BIGINT", "amount": "DECIMAL(12,2)", "name": "VARCHAR"}))
p = Pipeline("p", stream=stream, transform="select id, amount, upper(name) as name from batch",
             outputs=[Rows(DuckDB("out.duckdb", table="t"))], max_quarantine_ratio=1.0)
"""


def test_a_registered_name_is_enough_for_sql(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its registered name the recipe that is current runs; text for people says the same as JSON."""
    batch = batch_of(engine, pipeline())
    asked = ["diff", "--pipeline", "p", "--batch", batch, *at(tmp_path)]
    assert main([*asked, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["equal"] == 14
    assert main(asked) == 0
    assert "against the same recipe" in capsys.readouterr().out


def test_a_python_transform_needs_its_file(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger has a digest of a Python transform only: its name is refused with what to do."""
    made = pipeline(transform=lambda table: table.select(["id", "_partition", "_offset"]), schema={"id": "BIGINT"})
    batch = batch_of(engine, made)
    assert main(["diff", "--pipeline", "p", "--batch", batch, *at(tmp_path)]) == 1
    assert "FILE.py:VARIABLE" in capsys.readouterr().err
    assert difference(engine, made, batch)["rows"]["equal"] == 14


def test_windows_need_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline that cannot be made again whole from its declaration is refused, not made in part."""
    log = ListLog([], [])
    world.send(log, ("a", 1, 2.1))
    with engine_over(log, tmp_path, lambda: world.T0 + 600 * world.MINUTE) as engine:
        stages.run(engine, world.pipeline(), world.interval(0), "r")
        batch = engine.ledger.run_plan("r", "p").batches[0].batch.batch_id
    assert main(["diff", "--pipeline", "p", "--batch", batch, *at(tmp_path)]) == 1
    assert "it has outputs other than Rows" in capsys.readouterr().err


def test_a_held_batch_is_compared_with_what_the_gate_stopped(engine: Engine) -> None:
    """Before a correction is published, its effect on a held batch shows: the verdicts of both sides."""
    strict = pipeline(checks=[Check("small", "id < 104")])
    with pytest.raises(CheckFailedError):
        stages.run(engine, strict, RunRequest("since_last"), "r")
    batch = engine.ledger.run_plan("r", "p").batches[0].batch.batch_id
    found = difference(engine, pipeline(checks=[Check("small", "id < 105")]), batch)
    assert found["state"] == "held"
    assert "Nothing of this batch was published" in found["notes"][0]
    assert found["gate"] == {
        "before": {"holds": True, "released": False}, "after": {"holds": False, "rule": None},
    }  # fmt: skip
    assert [c["before"]["verdict"] for c in found["checks"]] == ["holds"]
    assert [c["after"]["verdict"] for c in found["checks"]] == ["true"]
    assert difference(engine, strict, batch)["gate"]["after"] == {"holds": True, "rule": "CheckFailedError"}


def test_pipelines_of_windows_are_compared_by_their_rows(tmp_path: Path) -> None:
    """A changed recipe, which the windows refuse to take by itself, is compared before it is decided on."""
    log = ListLog([], [])
    world.send(log, ("a", 1, 2.1), ("a", 2, 9.5))
    with engine_over(log, tmp_path, lambda: world.T0 + 600 * world.MINUTE) as engine:
        stages.run(engine, world.pipeline(), world.interval(0), "r")
        batch = engine.ledger.run_plan("r", "p").batches[0].batch.batch_id
        found = difference(engine, world.pipeline(transform="select k, 2 * v as v, ts from batch"), batch)
        assert (found["state"], found["rows"]["changed"], found["recipe"]["same"]) == ("loaded", 2, False)
        assert found["changed_columns"] == {"v": 2}
        assert "before they are folded into windows" in found["notes"][0]


def test_hostile_and_huge_values_are_shortened_and_still_told_apart(engine: Engine, log: ListLog) -> None:
    """Two long values that begin alike are shown with length and digest, and neither is shown whole."""
    log.values[0][:] = [record(0, name=HOSTILE + "a")]
    batch = batch_of(engine, pipeline())
    found = difference(engine, pipeline(transform="select id, amount, name || 'b' as name from batch"), batch)
    values = next(e for e in found["examples"]["changed"] if e["partition"] == 0)["columns"]["name"]
    assert values["before"] != values["after"]
    assert all(len(text) < SHOWN + 60 and f"({len(HOSTILE) + 1}" in values["before"] for text in values.values())


def test_what_cannot_be_compared_is_a_stated_error(engine: Engine) -> None:
    """An unknown batch, a batch that nothing was derived of, and raw files that retention has let go."""
    with pytest.raises(RequestError, match="has no batch 'nothing'"):
        difference(engine, pipeline(), "nothing")
    batch = batch_of(engine, pipeline())
    with pytest.raises(NotReadyError, match="to compare with"):
        difference(engine, pipeline().replace(name="other"), batch)
    engine.ledger.decide(
        Decision(EXPIRED, "s", 1, None, None, "gc", "raw_retention", FIRST_MS, raw_payload([batch], 1, 1, 1))
    )
    for path in list(engine.staging.list("s/epoch=1/raw")):
        engine.staging.remove(path)
    with pytest.raises(RawExpiredError):
        difference(engine, pipeline(), batch)


def test_the_cost_of_differences_is_bounded_by_the_limit(tmp_path: Path) -> None:
    """However many rows differ, examples are the first `limit` of each kind over all slices, in order."""
    sides = []
    for start in (0, 5000):
        for name, added in (("before", 0), ("after", 1)):
            numbers = pa.array(range(start, start + 5000), pa.int64())
            same = [pa.array([0] * 5000, pa.int32())]
            table = pa.table(
                [pa.array([n + added for n in range(5000)], pa.int64()), *same, numbers, *same],
                names=["v", "_partition", "_offset", "_row"],
            )
            pq.write_table(table, tmp_path / f"{name}{start}")
        sides.append(Sides(tmp_path / f"before{start}", tmp_path / f"after{start}", None, None))
    for limit, offsets in ((3, [0, 1, 2]), (5002, [*range(5002)]), (0, [])):
        with comparer(tmp_path, limit) as comparing:
            for side in sides:
                comparing.add(side)
            assert +comparing.found.rows == {"changed": 10_000}
            assert [e["offset"] for e in comparing.found.examples["changed"]] == offsets


PAGE = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_example_in_the_docs_is_what_the_command_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: ListLog
) -> None:
    """The page quotes a declaration and what `eventlog diff` says of it, digests aside."""
    quoted = re.findall(r"```\w*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    declared = next(text for text in quoted if "orders = Pipeline(" in text)
    expected = next(text for text in quoted if text.startswith("orders, batch "))
    file = tmp_path / "orders.py"
    file.write_text(declared)
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        before = pipeline(transform="select id, amount, name from batch where id <> 1").replace(name="orders")
        batch = batch_of(made, before)
    assert main(["diff", "--pipeline", f"{file}:orders", "--batch", batch, *at(tmp_path)]) == 0
    assert plain(capsys.readouterr().out) == plain(expected)


def plain(text: str) -> list[str]:
    """Lines without digests and the room at their ends."""
    return [re.sub(r"\b[0-9a-f]{12,}\b", "DIGEST", line).rstrip() for line in text.strip().splitlines()]
