"""The report of a batch: its numbers balance, it is the same for equal state, and hostile payloads stay text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError, CheckFailedError, RequestError
from airflow_provider_eventlog.core.naming import visible
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.report import flow
from airflow_provider_eventlog.core.report.collect import collect
from airflow_provider_eventlog.core.report.html import page, policy
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.values import SliceRead
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over
from tests.unit.folding import world

SCRIPT = "</code></bdi><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)"
HOSTILE: list[bytes] = [
    SCRIPT.encode(),
    b"\x00\x01\x1b[31m\x7f",
    "\u202e\u2066right to left\u2028\ud7ff\ufeff".encode(),
    b"\xff\xfe\xc3\x28",
    b"{{ 7 * 7 }}{% raw %}",
    b"]]></style></svg><!--",
    b"A" * 10_000_000,
    "\u0301".encode() * 5_000,
]
CHECKS = [Check("small", "id < 10", on_fail="quarantine"), Check("sign", "id >= 0 /* <b> */", on_fail="warn")]
# Marks that no page may hold: they turn the direction of what stands behind them, or end a line.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def pipeline(**knobs: Any) -> Pipeline:
    """A pipeline of two outputs whose checks keep some rows out."""
    stream = Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"}))
    outputs = [Rows(DuckDB("out.duckdb", table="t")), Rows(DuckDB("out.duckdb", table="u"))]
    given = {"max_quarantine_ratio": 1.0, "checks": CHECKS, "quarantine": DuckDB("out.duckdb", table="q"), **knobs}
    return Pipeline("p", stream=stream, outputs=outputs, **given)


def values() -> list[bytes | None]:
    """Sound rows, a tombstone, rows that break a check, and hostile payloads."""
    sound = [json.dumps({"id": n}).encode() for n in (0, 1, 2, -3, 11)]
    return [*sound, None, *HOSTILE]


@pytest.fixture
def log() -> ListLog:
    return ListLog(values(), [b'{"id": 4}'])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        yield made


def run(engine: Engine, made: Pipeline, key: str = "r") -> str:
    """Run a batch from plan to load; its id."""
    stages.run(engine, made, RunRequest("since_last"), key)
    return engine.ledger.run_plan(key, made.name).batches[0].batch.batch_id


class Seen(HTMLParser):
    """Tags, attributes and visible text of a page, as a browser's parser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def assert_harmless(text: str) -> Seen:
    """A page has no element that loads or runs anything, no handler, no address, and no mark that hides text."""
    seen = Seen(text)
    names = {tag for tag, _ in seen.tags}
    assert names <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "code", "bdi",
        "br", "span", "b", "svg", "g", "text", "tspan", "rect", "polygon",
    }, names  # fmt: skip
    attributes = {name for _, given in seen.tags for name in given}
    assert not {a for a in attributes if a.startswith("on") or a in ("src", "href", "style", "xlink:href", "action")}
    assert not UNSEEN.findall(text)
    return seen


def test_hostile_payloads_stay_text(engine: Engine) -> None:
    """Script tags, NUL, escape sequences, turned writing, templates and huge values are shown, never obeyed."""
    document = collect(engine, "p", run(engine, pipeline()))
    text = page(document)
    seen = assert_harmless(text)
    shown = "".join(seen.text)
    assert SCRIPT in shown
    assert "\\x00\\x01\\x1b[31m\\x7f" in shown
    assert "\\u202e\\u2066right to left\\u2028" in shown
    assert "\\xff\\xfe" in shown
    assert "{{ 7 * 7 }}" in shown
    assert "10,000,000 bytes" in shown
    assert len(text) < 40_000
    assert len(document["quarantine"]["first"]) == len(HOSTILE) + 1


def test_a_hostile_topic_and_decision_stay_text(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Names that a cluster gives and reasons that people write are foreign text as payloads are."""
    log.identity = TopicIdentity(f"{SCRIPT}\u202e", f"orders{SCRIPT}\x00", "id")
    with pytest.raises(CheckFailedError):
        run(engine, pipeline(checks=[Check("small", "id < 10")]))
    batch = engine.ledger.run_plan("r", "p").batches[0].batch.batch_id
    gate.release(engine, "p", batch, who=f"{SCRIPT}\u202e", why=f"{SCRIPT}\x00")
    seen = assert_harmless(page(collect(engine, "p", batch)))
    assert "".join(seen.text).count(SCRIPT) == 5


def drawn(text: str) -> dict[str, tuple[int, dict[str, int]]]:
    """Each level of a page's picture: its total, and its parts."""
    found: dict[str, tuple[int, dict[str, int]]] = {}
    level = ""
    for tag, attributes in Seen(text).tags:
        if tag == "g":
            level = str(attributes["data-level"])
            found[level] = (int(str(attributes["data-total"])), {})
        elif tag == "rect":
            found[level][1][str(attributes["data-part"])] = int(str(attributes["data-count"]))
    return found


class GappedLog(ListLog):
    """A log with control records in it, whose oldest offset is lost."""

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[Any]:
        gaps = [(0, 1), (2, 4)] if wanted.partition == 0 else []
        for batch in super().read(wanted, record_loss=record_loss):
            kept = [o not in (0, 2, 3) or bool(wanted.partition) for o in range(wanted.start, wanted.end)]
            import pyarrow as pa

            yield batch.filter(pa.array(kept))
        found = tuple(OffsetRange(wanted.partition, *gap) for gap in gaps)
        self._last_read = SliceRead(found, 0, self.last_read.bytes, found[:1])


def test_the_picture_sums_to_the_accounting(tmp_path: Path) -> None:
    """Every level is drawn without a rest: offsets, records, rows, and what passed for each output; nothing twice."""
    log = GappedLog([*values(), b'{"id": 5}'], [b'{"id": 4}'])
    made = pipeline(transform="select id, unnest([1, 2]) as part from batch where id <> 4")
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as engine:
        made = made.replace(
            stream=Stream("orders", name="s", start="earliest", decode=made.decode, on_data_loss="record")
        )
        document = collect(engine, "p", run(engine, made))
    figures, levels = document["accounting"], drawn(page(document))
    assert list(levels) == ["planned", "landed", "typed", "passed, for t", "passed, for u"]
    for total, parts in levels.values():
        assert sum(parts.values()) == total > 0
    landing, rows = figures["landing"], figures["transform"]
    assert levels["planned"] == (
        landing["length"],
        {"landed": landing["landed"], "invisible": 2, "lost": 1},
    )
    assert levels["landed"] == (
        landing["landed"],
        {"typed": rows["typed"], "tombstones": 1, "undecodable": len(HOSTILE)},
    )
    assert levels["typed"] == (
        rows["typed"] + rows["exploded"],
        {"passed": rows["passed"], "filtered": 1, "rejected": rows["rejected"]},
    )
    assert rows["rejected"] == 2
    assert levels["passed, for t"] == (rows["passed"], {"loaded": rows["passed"]})
    assert document["lost"] == ["0:0-1"]


def test_a_picture_that_does_not_balance_is_refused() -> None:
    """Numbers that do not sum are an error, never a picture."""
    with pytest.raises(AccountingError, match="10 offsets are planned, but 8 landed"):
        flow.levels({"landing": {"length": 10, "landed": 8, "invisible": 1, "lost": 0}}, [])


def test_windows_tell_what_was_placed_late_or_waits(tmp_path: Path) -> None:
    """Of what passed, an output of windows has what was placed, late, counted earlier, or waits for the frontier."""
    log, ticks = ListLog([], []), iter(range(10**9))
    world.send(log, ("a", 1, 2.1), ("a", 2, 9.5))
    world.send(log, ("a", 4, 10.5), ("a", 8, 2.5), recorded=11)
    with engine_over(log, tmp_path, lambda: world.T0 + 600 * world.MINUTE + next(ticks)) as engine:
        made = world.pipeline(world.windows(allowed_lateness="1 minute", disorder="0 minutes"))
        batches = []
        for number in (0, 1):
            world.up_to_validated(engine, made, world.interval(number), f"r{number}")
            batches.append(engine.ledger.run_plan(f"r{number}", "p").batches[0].batch.batch_id)
        (waiting,) = collect(engine, "p", batches[1])["outputs"]
        assert waiting["rows"] == {"waiting": 2}
        for number in (0, 1):
            stages.load(engine, made, f"r{number}")
        (first,), (second,) = (collect(engine, "p", batch)["outputs"] for batch in batches)
        assert (first["rows"], first["fold"], first["log"]) == ({"placed": 2, "late": 0, "outside": 0}, 1, 1)
        assert (second["rows"], second["late_pairs"]) == ({"placed": 1, "late": 1, "outside": 0}, 1)
        drawing = drawn(page(collect(engine, "p", batches[1])))
        assert drawing["passed, for w"] == (2, {"placed": 1, "late": 1})
        again = dataclasses.replace(world.interval(1), recompute=True)
        stages.run(engine, made, again, "again")
        (corrected,) = collect(engine, "p", batches[1])["outputs"]
        assert corrected["cause"] == "correction"
        assert sum(corrected["rows"].values()) == 2
        assert collect(engine, "p", batches[1], 1)["outputs"] == [second]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 10**9), min_size=8, max_size=8))
def test_any_accounting_that_balances_is_drawn_without_a_rest(counts: list[int]) -> None:
    """For all numbers that satisfy the equations, each level's parts are its total and lie side by side inside it."""
    typed, tombstones, undecodable, invisible, lost, passed, filtered, rejected = counts
    landed = typed + tombstones + undecodable
    exploded = passed + rejected + filtered - typed
    landing = {"length": landed + invisible + lost, "landed": landed, "invisible": invisible, "lost": lost}
    transform = {"typed": typed, "tombstones": tombstones, "undecodable": undecodable, "filtered": filtered}
    transform |= {"exploded": exploded, "rejected": rejected, "passed": passed}
    outputs = [{"output": "t", "kind": "rows", "rows": {"loaded": passed}}]
    drawing = flow.picture(flow.levels({"landing": landing, "transform": transform}, outputs))
    assert [bar["total"] for bar in drawing["bars"]] == [landing["length"], landed, typed + exploded, passed]
    for bar in drawing["bars"]:
        assert sum(part["count"] for part in bar["segments"]) == bar["total"]
        assert sum(part["width"] for part in bar["segments"]) <= drawing["width"]


@pytest.mark.parametrize("counts", [(0, 0, 0), (10**12, 1, 0), (1, 10**15, 3), (0, 0, 7)])
def test_the_picture_shows_what_is_there(counts: tuple[int, int, int]) -> None:
    """Every part that is not empty is at least visible, inside of the picture, and parts do not overlap."""
    names = ("landed", "invisible", "lost")
    landing = dict(zip(names, counts, strict=True)) | {"length": sum(counts)}
    drawing = flow.picture(flow.levels({"landing": landing}, []))
    end = float(flow.LEFT)
    for segment in drawing["bars"][0]["segments"]:
        assert segment["x"] == pytest.approx(end, abs=0.02)
        assert (segment["width"] >= 2) == (segment["count"] > 0)
        end = segment["x"] + segment["width"]
    assert end <= drawing["width"]


def test_equal_state_gives_equal_bytes(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The same batch in another ledger and staging gives the same page, and asking twice does."""
    batch = run(engine, pipeline())
    first = page(collect(engine, "p", batch))
    assert page(collect(engine, "p", batch)) == first
    other = tmp_path / "other"
    other.mkdir()
    with engine_over(ListLog(*log.values), other, lambda: FIRST_MS + 10_000_000) as elsewhere:
        assert run(elsewhere, pipeline()) == batch
        assert page(collect(elsewhere, "p", batch)) == first


def test_a_held_batch_says_by_which_rule_and_who_released_it(engine: Engine) -> None:
    """Held: rules and verdicts; released: who and why; loaded then. Earlier generations keep their own report."""
    strict = pipeline(checks=[Check("small", "id < 10"), Check("sign", "id >= 0", on_fail="warn")])
    with pytest.raises(CheckFailedError):
        run(engine, strict)
    batch = engine.ledger.run_plan("r", "p").batches[0].batch.batch_id
    held = collect(engine, "p", batch)
    assert (held["generation"]["state"], held["gate"]["held"]) == ("held", True)
    assert held["gate"]["rules"] == ["check small"]
    assert [(c["check"], c["verdict"], c["rows"], c["first"]) for c in held["checks"]] == [
        ("small", "holds", 1, ["0:4"]),
        ("sign", "broken", 1, ["0:3"]),
    ]
    assert held["outputs"][0]["rows"] == {"waiting": held["accounting"]["transform"]["passed"]}
    gate.release(engine, "p", batch, who="me", why="known")
    stages.validate(engine, strict, "r")
    stages.load(engine, strict, "r")
    loaded = collect(engine, "p", batch)
    assert loaded["gate"]["held"] is False
    (decision,) = loaded["gate"]["decisions"]
    assert (decision["kind"], decision["who"], decision["why"]) == ("release", "me", "known")
    assert "loaded" in loaded["outputs"][0]["rows"]
    stages.run(engine, pipeline(checks=[]), RunRequest("offsets", ranges=(OffsetRange(0, 0, 2),)), "again")
    assert collect(engine, "p", batch, 1)["generation"]["newest"] == 2
    assert collect(engine, "p", batch)["generation"]["generation"] == 2


def test_before_validation_only_the_landing_is_told(engine: Engine) -> None:
    """A planned batch has no picture, a landed one the first level; checks are of unknown verdict."""
    made = pipeline()
    plan = stages.plan(engine, made, RunRequest("since_last", parallelism=1), "r")
    batch = plan.batches[0].batch.batch_id
    assert collect(engine, "p", batch)["flow"] == []
    assert "Not all of it is landed" in page(collect(engine, "p", batch))
    stages.land(engine, made, "r", 0)
    document = collect(engine, "p", batch)
    assert [level["name"] for level in document["flow"]] == ["planned"]
    assert {c["verdict"] for c in document["checks"]} == {"unknown"}
    assert_harmless(page(document))


def test_a_quarantine_that_is_gone_is_told_of(engine: Engine) -> None:
    """Where the quarantine's files were let go the rest of the report stands, with a note."""
    batch = run(engine, pipeline())
    for path in [p for p in engine.staging.list("s") if "/quarantine/" in p]:
        assert engine.staging.remove(path)
    document = collect(engine, "p", batch)
    assert document["quarantine"]["first"] == []
    assert document["quarantine"]["rows"] == len(HOSTILE) + 1
    assert "cannot be shown" in document["notes"][0]
    assert_harmless(page(document))


def test_a_profile_is_shown_if_there_is_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile beside the commit record is part of the report; its values are foreign text."""
    batch = run(engine, pipeline())
    assert collect(engine, "p", batch)["profile"] is None
    folder = paths.generation("s", "p", batch, 1)
    engine.staging.publish_json(f"{folder}/profile.json", {"id": {"top": [SCRIPT, "\u202e"]}})
    document = collect(engine, "p", batch)
    assert document["profile"] == {"id": {"top": [SCRIPT, "\u202e"]}}
    assert_harmless(page(document))


def test_the_policy_is_in_the_page_and_allows_its_own_style_only(engine: Engine) -> None:
    """The page forbids all that it does not have itself: no script, no image, no connection."""
    text = page(collect(engine, "p", run(engine, pipeline())))
    metas = [given for tag, given in Seen(text).tags if tag == "meta"]
    (found,) = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    assert found == policy()
    assert found.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in found


def test_the_command_writes_a_page_or_json(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Page and JSON on stdout or into a new file; a file that exists is refused, and what is unknown is named."""
    batch = run(engine, pipeline())
    at = ["--home", str(tmp_path), "--staging-root", str(tmp_path / "staging"), "--ledger", f"{tmp_path}/ledger.sqlite"]
    asked = ["report", "--pipeline", "p", "--batch", batch, *at]
    document = collect(engine, "p", batch)
    assert main(asked) == 0
    assert capsys.readouterr().out == page(document)
    assert main([*asked, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    file = tmp_path / "report.html"
    assert main([*asked, "--out", str(file)]) == 0
    assert file.read_text() == page(document)
    assert main([*asked, "--out", str(file)]) == 2
    other = tmp_path / "report.json"
    assert main([*asked, "--out", str(other), "--output", "json"]) == 0
    assert json.loads(other.read_text()) == document
    capsys.readouterr()
    assert main([*asked, "--generation", "9"]) == 2
    assert "generations of it: 1" in capsys.readouterr().err
    with pytest.raises(RequestError, match="has no batch 'x'"):
        collect(engine, "p", "x")


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        ("plain ä ש", 200, "plain ä ש"),
        ("a\nb\u202e", 200, "a\\nb\\u202e"),
        ("\ud800", 200, "\\ud800"),
        (b"\xc3\xa4\xff", 200, "ä\\xff"),
        ("abc", 2, "ab..."),
        ("ä".encode() * 50, 10, "ä" * 10 + "..."),
        (b"", 5, ""),
    ],
)
def test_visible_shows_what_would_hide(value: str | bytes, limit: int, expected: str) -> None:
    """Letters stay, what does not print becomes an escape, and what is long is cut."""
    assert visible(value, limit) == expected
