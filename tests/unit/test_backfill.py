"""Back-fill: chunks that cover exactly and never move, what stands behind offsets, and Airflow's API as a client."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_eventlog.cli import airflow_runs
from airflow_provider_eventlog.cli import backfill as command
from airflow_provider_eventlog.cli.airflow_api import (
    Access,
    AirflowApiError,
    AirflowAuthenticationError,
    AirflowClient,
    AirflowPermissionError,
    AirflowUnavailableError,
    DagNotFoundError,
    RunRefusedError,
    find_access,
)
from airflow_provider_eventlog.cli.common import UsageError
from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core.backfill import (
    FROM_KAFKA,
    FROM_STAGING,
    GONE,
    NEW,
    Backfill,
    Chunk,
    Item,
    Owner,
    chunks,
    merged,
    plan_backfill,
    survey,
)
from airflow_provider_eventlog.core.backfill_ranges import ranges_between, ranges_of_failed, ranges_of_holes
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    FutureIntervalError,
    IntervalExpiredError,
    OffsetRangeError,
    OffsetsLostError,
    RequestError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan, TopicIdentity, format_ranges, parse_ranges
from airflow_provider_eventlog.core.planning import plan_run
from airflow_provider_eventlog.core.planning.sizes import portions
from airflow_provider_eventlog.core.protocols import GenerationState, SliceRecord, StagedFile
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from tests.support.simlog import SimSource

NOW = 1_000_000
PARTITIONS, LENGTH = 3, 60
SECRET = "correct horse battery"


def middle(r: OffsetRange) -> int:
    return (r.start + r.end) // 2


def cells(ranges: Any) -> list[tuple[int, int]]:
    return [(r.partition, o) for r in ranges for o in range(r.start, r.end)]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[OffsetRange], list[Owner]]:
    """Wanted ranges (not merged, unsorted) and batches over disjoint sets of offsets, some spanning partitions."""
    owned = draw(st.lists(st.integers(0, 4), min_size=PARTITIONS * LENGTH // 5, max_size=PARTITIONS * LENGTH // 5))
    ranges: dict[int, list[OffsetRange]] = {}
    for block, owner in enumerate(owned):
        partition, start = divmod(block * 5, LENGTH)
        if owner:
            ranges.setdefault(owner, []).append(OffsetRange(partition, start, start + 5))
    landed = draw(st.sets(st.integers(1, 4)))
    owners = [Owner(f"b{n}", merged(found), n in landed) for n, found in ranges.items()]
    bounds = st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, LENGTH), st.integers(0, LENGTH))
    wanted = [OffsetRange(p, min(a, b), max(a, b)) for p, a, b in draw(st.lists(bounds, max_size=6))]
    return wanted, owners


LIMITS = st.integers(1, 80)


@given(situations(), LIMITS, LIMITS)
def test_chunks_cover_exactly(situation: tuple[list[OffsetRange], list[Owner]], limit: int, batch: int) -> None:
    """Every wanted offset is in one chunk, no other offset is, and what is new is exactly what no batch owns."""
    wanted, owners = situation
    made = chunks("p", wanted, owners, limit, batch)
    asked = set(cells(wanted))
    assert sorted(cells(r for c in made for r in c.ranges)) == sorted(asked)
    owned = {cell for o in owners for cell in cells(o.ranges)}
    new = cells(r for c in made for i in c.items if i.state == NEW for r in i.ranges)
    assert sorted(new) == sorted(asked - owned)
    assert all(i.offsets <= batch for c in made for i in c.items if i.state == NEW)


@given(situations(), LIMITS)
def test_chunks_never_split_an_owner(situation: tuple[list[OffsetRange], list[Owner]], limit: int) -> None:
    """A planned batch is whole in one chunk; only a batch that is longer than the limit makes a chunk longer."""
    wanted, owners = situation
    made = chunks("p", wanted, owners, limit, LENGTH)
    asked = set(cells(wanted))
    touched = {o.batch_id for o in owners if asked & set(cells(o.ranges))}
    replays = [i for c in made for i in c.items if i.batch_id is not None]
    assert sorted(i.batch_id or "" for i in replays) == sorted(touched)
    by_id = {o.batch_id: o for o in owners}
    for item in replays:
        owner = by_id[item.batch_id or ""]
        assert item.ranges == owner.ranges
        assert item.state == (FROM_STAGING if owner.landed else FROM_KAFKA)
    assert all(c.offsets <= limit or [i.state != NEW for i in c.items] == [True] for c in made)


@given(situations(), LIMITS, st.randoms(use_true_random=False))
def test_run_ids_are_a_function_of_the_offsets(
    situation: tuple[list[OffsetRange], list[Owner]], limit: int, chance: Any
) -> None:
    """Order and spelling of what is asked change nothing; ids differ by chunk and by pipeline, and fit Airflow."""
    wanted, owners = situation
    made = chunks("p", wanted, owners, limit, LENGTH)
    halves = [OffsetRange(r.partition, *b) for r in wanted for b in ((r.start, middle(r)), (middle(r), r.end))]
    chance.shuffle(halves)
    chance.shuffle(owners)
    assert chunks("p", halves, owners, limit, LENGTH) == made
    ids = [c.run_id for c in made]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {c.run_id for c in chunks("q", wanted, owners, limit, LENGTH)}
    assert all(re.fullmatch(r"eventlog_backfill__p__[0-9a-f]{16}", i) for i in ids)


@given(situations(), LIMITS, LIMITS, st.sets(st.integers(0, 40)))
def test_asking_again_finds_the_same_runs(
    situation: tuple[list[OffsetRange], list[Owner]], limit: int, batch: int, ran: set[int]
) -> None:
    """After any of the chunks have been planned, the same question gives the same chunks under the same ids."""
    wanted, owners = situation
    made = chunks("p", wanted, owners, limit, batch)
    for number in ran & set(range(len(made))):
        free = [r for i in made[number].items if i.state == NEW for r in i.ranges]
        owners = owners + [Owner(f"n{number}-{k}", p, False) for k, p in enumerate(portions(free, batch))]
    again = chunks("p", wanted, owners, limit, batch)
    assert [(c.run_id, c.ranges, c.offsets) for c in again] == [(c.run_id, c.ranges, c.offsets) for c in made]


def test_a_run_id_fits_the_longest_name_and_the_note_its_column() -> None:
    """A name of 200 characters gives an id below 250; a note of very many ranges is cut to 1,000 characters."""
    ranges = tuple(OffsetRange(p, 10, 20) for p in range(200))
    chunk = Chunk("n" * 200, ranges, ())
    assert len(chunk.run_id) < 250
    assert len(chunk.note) == 1000
    assert Chunk("p", ranges[:1], ()).note == "Back-fill of pipeline p, 10 offsets: partition 0, offsets 10 to 19."


class World:
    """A ledger, a simulated topic with a record every 10 ms in each of two partitions, and an engine over both."""

    def __init__(self, folder: Path) -> None:
        self.ledger = open_ledger(folder / "ledger.sqlite")
        self.source = SimSource({p: [10 * (i + 1) for i in range(100)] for p in range(2)})
        self.engine = Engine(self.ledger, _nothing(), lambda _: self.source, _nothing, clock=lambda: NOW)
        self.pipeline = self.declare()

    def declare(self, name: str = "p", **stream: Any) -> Pipeline:
        outputs = [Rows(DuckDB("x.duckdb", table=name))]
        return Pipeline(name, stream=Stream("t", **stream), outputs=outputs)

    def plan(self, request: RunRequest, key: str) -> RunPlan:
        return plan_run(self.ledger, lambda: self.source, self.pipeline, request, key, NOW)

    def survey(self, text: str, chunk: int | None = None) -> Backfill:
        return survey(self.engine, self.pipeline, parse_ranges(text), chunk)


def _nothing(*_: Any) -> Any:
    return None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


def interval(start: int, end: int, **more: Any) -> RunRequest:
    return RunRequest("interval", interval=(start, end), **more)


def states(found: Backfill) -> list[tuple[str, str]]:
    items = [i for c in found.chunks for i in c.items] + list(found.gone)
    return [(i.state, format_ranges(i.ranges)) for i in items]


def test_a_survey_tells_new_replays_and_gone(world: World) -> None:
    """Uncovered, planned, landed and expired offsets are told apart; a batch counts whole; nothing is kept."""
    landed = world.plan(interval(100, 200), "a").batches[0].batch
    world.plan(interval(200, 300), "b")
    for r in landed.slices:
        file = StagedFile(f"{r}.parquet", 1, "0" * 64)
        world.ledger.record_slice(landed.batch_id, SliceRecord(r, file, "1" * 64, len(r), 0, 0, 0, (), 70))
    world.ledger.seal_batch(landed.batch_id, "d" * 64)
    world.source.starts = {0: 5, 1: 0}
    found = world.survey("0:2-40")
    assert states(found) == [
        (FROM_STAGING, "0:9-19,1:9-19"),
        (FROM_KAFKA, "0:19-29,1:19-29"),
        (NEW, "0:5-9,0:29-40"),
        (GONE, "0:2-5"),
    ]
    assert [c.text for c in found.chunks] == ["0:5-40"]
    assert [b["bytes"] for b in found.to_json()["runs"][0]["batches"]] == [140, 140, 105]
    assert len(world.ledger.batches("t")) == 2
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 2 to 4"):
        plan_backfill(world.engine, world.pipeline, parse_ranges("0:2-40"))


def test_a_planned_batch_that_expired_is_gone_whole(world: World) -> None:
    """A batch that was planned, not landed, and lost offsets can never be landed: no chunk takes any of it."""
    batch = world.plan(interval(100, 200), "a").batches[0].batch
    world.source.starts = {0: 12, 1: 0}
    found = world.survey("0:15-25,1:0-12")
    assert [(i.batch_id, format_ranges(i.ranges)) for i in found.gone] == [(batch.batch_id, "0:9-12")]
    assert [c.text for c in found.chunks] == ["0:19-25,1:0-9"]


def test_a_survey_before_the_first_plan(world: World) -> None:
    """Without a ledger's word everything is new, in chunks of the stream's max_batch_offsets."""
    world.pipeline = world.declare(max_batch_offsets=60)
    found = world.survey("0:0-100,1:0-100")
    assert [run["bytes"] for run in found.to_json()["runs"]] == [None] * 4
    assert [c.text for c in found.chunks] == [
        "0:0-60",
        "0:60-100,1:0-20",
        "1:20-80",
        "1:80-100",
    ]
    assert world.ledger.streams() == ()


def test_a_survey_refuses_what_is_not_there(world: World) -> None:
    """Offsets beyond the log, a chunk below one, and another topic under the name are refused."""
    with pytest.raises(OffsetRangeError, match="largest end is 100"):
        world.survey("0:90-101")
    with pytest.raises(RequestError, match="at least 1"):
        world.survey("0:0-10", 0)
    world.plan(interval(100, 200), "a")
    world.source.identity = TopicIdentity("cluster", "t", "id-2")
    with pytest.raises(TopicReplacedError):
        world.survey("0:0-10")


def test_chunks_run_and_are_found_again(world: World) -> None:
    """Planned one by one as runs, chunks become exactly the batches that were shown, and keep their ids."""
    world.plan(interval(100, 200), "a")
    first = plan_backfill(world.engine, world.pipeline, parse_ranges("0:0-100,1:5-50"), 30)
    for chunk in first[::2]:
        plan = world.plan(RunRequest("offsets", ranges=chunk.ranges), chunk.run_id)
        assert [p.batch.ranges for p in plan.batches] == [i.ranges for i in chunk.items]
    again = plan_backfill(world.engine, world.pipeline, parse_ranges("0:0-100,1:5-50"), 30)
    assert [c.run_id for c in again] == [c.run_id for c in first]


def between(world: World, start: int, end: int, **more: Any) -> str:
    return format_ranges(ranges_between(world.engine, world.pipeline, start, end, **more))


def test_a_time_is_looked_up_without_a_cut(world: World) -> None:
    """Record times become offsets; no cut, stream or batch comes of it."""
    assert between(world, 105, 205) == "0:10-20,1:10-20"
    assert world.ledger.streams() == ()


def test_a_time_goes_by_the_cuts_that_stand(world: World) -> None:
    """A bound at a cut is that cut, one inside a batch takes it whole, even when Kafka has nothing left of it."""
    world.plan(interval(100, 200), "a")
    world.source.starts = {0: 60, 1: 60}
    assert between(world, 100, 200) == "0:9-19,1:9-19"
    assert between(world, 150, 200) == "0:9-19,1:9-19"
    assert between(world, 100, 150) == "0:9-19,1:9-19"


def test_a_time_that_cannot_be_proved_whole_is_refused(world: World) -> None:
    """A bound at a log start above 0 may hide expired records; what is left is taken only when asked for."""
    world.source.starts = {0: 50, 1: 0}
    with pytest.raises(IntervalExpiredError, match="offset 50"):
        between(world, 105, 705)
    assert between(world, 105, 705, whole=False) == "0:50-70,1:10-70"
    with pytest.raises(FutureIntervalError):
        between(world, 105, NOW + 1)
    with pytest.raises(RequestError):
        between(world, 205, 105)


def test_holes_are_what_nobody_has_taken(world: World) -> None:
    """Unplanned segments without what off-chain batches loaded; what is begun counts until it is loaded."""
    world.plan(interval(100, 200, gap="hole"), "a")
    world.plan(interval(500, 600, gap="hole"), "b")

    def holes() -> str:
        return format_ranges(ranges_of_holes(world.engine, world.pipeline))

    assert holes() == "0:19-49,1:19-49"
    taken = world.plan(RunRequest("offsets", ranges=parse_ranges("0:19-30")), "c").batches[0]
    assert holes() == "0:19-49,1:19-49"
    before = [c.run_id for c in plan_backfill(world.engine, world.pipeline, parse_ranges(holes()), 11)]
    world.ledger.advance_generation("p", taken.batch.batch_id, taken.generation, GenerationState.LOADED)
    assert holes() == "0:30-49,1:19-49"
    assert [c.run_id for c in plan_backfill(world.engine, world.pipeline, parse_ranges(holes()), 11)] == before[1:]


def test_failed_is_what_is_begun_and_not_loaded(world: World) -> None:
    """Batches whose newest generation is not loaded, and none that the pipeline has not begun."""
    one, two = (world.plan(interval(a, a + 100), f"r{a}").batches[0] for a in (100, 200))
    world.ledger.advance_generation("p", one.batch.batch_id, one.generation, GenerationState.LOADED)
    assert format_ranges(ranges_of_failed(world.engine, world.pipeline)) == "0:19-29,1:19-29"
    assert ranges_of_failed(world.engine, world.declare("q")) == ()
    world.ledger.advance_generation("p", two.batch.batch_id, two.generation, GenerationState.LOADED)
    assert ranges_of_failed(world.engine, world.pipeline) == ()


class FakeAirflow:
    """What the client sees of an Airflow: one DAG, its runs, one user; runs end in `outcome` when listed."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.posted = 0
        self.cleared: list[str] = []
        self.slept: list[float] = []
        self.outcome = "success"
        self.dag = {"dag_id": "p", "is_paused": False, "is_stale": False, "params": {"eventlog_what": {}}}
        self.valid = "token-1"
        self.answers: dict[str, httpx.Response] = {}

    def client(self, access: Access | None = None) -> AirflowClient:
        given = access or Access("http://airflow.test/base", username="admin", password=SECRET)
        return AirflowClient(given, httpx.MockTransport(self.handle), self.slept.append)

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/base")
        for prefix, answer in self.answers.items():
            if f"{request.method} {path}".startswith(prefix):
                return answer
        if path == "/auth/token":
            good = json.loads(request.content)["password"] == SECRET
            return httpx.Response(201, json={"access_token": self.valid}) if good else httpx.Response(401)
        if request.headers.get("authorization") != f"Bearer {self.valid}":
            return httpx.Response(401, json={"detail": "Invalid JWT token"})
        assert path.startswith("/api/v2/dags/")
        return self.dags(request, path.removeprefix("/api/v2/dags/").split("/"))

    def dags(self, request: httpx.Request, parts: list[str]) -> httpx.Response:
        if parts[0] != "p":
            return httpx.Response(404, json={"detail": "not found"})
        if parts[1] == "details":
            return httpx.Response(200, json=self.dag)
        if request.method == "POST" and len(parts) == 2:
            return self.post(json.loads(request.content))
        if request.method == "POST":
            self.cleared.append(parts[2])
            self.runs[parts[2]]["state"] = "queued"
            return httpx.Response(200, json={})
        if len(parts) == 3:
            return httpx.Response(200, json=self.runs[parts[2]])
        return self.listed(request)

    def post(self, body: dict[str, Any]) -> httpx.Response:
        assert body["logical_date"] is None
        if body["dag_run_id"] in self.runs:
            return httpx.Response(409, json={"detail": "exists"})
        self.posted += 1
        self.runs[body["dag_run_id"]] = {**body, "state": "queued"}
        return httpx.Response(200, json=self.runs[body["dag_run_id"]])

    def listed(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params
        found = [r for i, r in self.runs.items() if i.startswith(query["run_id_prefix_pattern"])]
        for run in found:
            run["state"] = self.outcome if run["state"] == "queued" else run["state"]
        start, limit = int(query["offset"]), int(query["limit"])
        return httpx.Response(200, json={"dag_runs": found[start : start + limit], "total_entries": len(found)})


@pytest.fixture
def fake() -> FakeAirflow:
    return FakeAirflow()


def many(count: int) -> Backfill:
    made = [Chunk("p", (r,), (Item(NEW, None, (r,)),)) for r in (OffsetRange(0, n, n + 1) for n in range(count))]
    return Backfill("p", "t", (OffsetRange(0, 0, count),), tuple(made), (), None)


def ask(fake: FakeAirflow, found: Backfill, **more: Any) -> dict[str, dict[str, Any]]:
    """What the command does with Airflow."""
    args = argparse.Namespace(**{"dag_id": None, "retry_failed": False, "no_wait": False, **more})
    with fake.client() as client:
        return command._run_in_airflow(args, client, "p", found, lambda *_: None)


def test_asking_twice_makes_nothing_twice(fake: FakeAirflow) -> None:
    """250 runs are made once, each with offsets, note and no logical date, and found again by the second call."""
    found = many(250)
    first = ask(fake, found)
    assert {(o["made"], o["state"]) for o in first.values()} == {("now", "success")}
    run = fake.runs[found.chunks[7].run_id]
    assert run["conf"] == {"eventlog_what": "offsets", "eventlog_offsets": "0:7-8"}
    assert run["note"] == found.chunks[7].note
    second = ask(fake, found)
    assert {(o["made"], o["state"]) for o in second.values()} == {("before", "success")}
    assert (fake.posted, len(second)) == (250, 250)


def test_failed_runs_are_named_and_cleared_only_when_asked(fake: FakeAirflow) -> None:
    """A failed run stays failed when it is asked for again; --retry-failed clears it and waits for it."""
    found = many(2)
    fake.outcome = "failed"
    assert {o["state"] for o in ask(fake, found).values()} == {"failed"}
    fake.outcome = "success"
    assert {o["state"] for o in ask(fake, found).values()} == {"failed"}
    assert fake.cleared == []
    again = ask(fake, found, retry_failed=True)
    assert {(o["made"], o["state"]) for o in again.values()} == {("cleared", "success")}
    assert sorted(fake.cleared) == sorted(fake.runs)


def test_no_wait_makes_and_returns(fake: FakeAirflow) -> None:
    """With --no-wait the runs are queued, also those of a paused DAG."""
    fake.dag["is_paused"] = True
    assert {o["state"] for o in ask(fake, many(3), no_wait=True).values()} == {"queued"}


def test_a_deleted_run_is_not_done(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that disappears while it is waited for counts as failed, and does not hang the wait."""
    monkeypatch.setattr(fake, "listed", lambda _: httpx.Response(200, json={"dag_runs": [], "total_entries": 0}))
    assert {o["state"] for o in ask(fake, many(1)).values()} == {"failed"}


def test_several_pipelines_in_one_dag(fake: FakeAirflow) -> None:
    """Where the DAG's params name a pipeline, the run's conf does."""
    fake.dag["params"] = {"eventlog_what": {}, "eventlog_pipeline": {}}
    ask(fake, many(1))
    assert [r["conf"]["eventlog_pipeline"] for r in fake.runs.values()] == ["p"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_paused": True}, "is paused"),
        ({"params": {}}, "no eventlog_batch"),
        ({"params": None}, "no eventlog_batch"),
    ],
)
def test_a_dag_that_cannot_do_it_is_refused(fake: FakeAirflow, change: dict[str, Any], words: str) -> None:
    """A paused DAG, and one without eventlog's params, are refused before a run is made."""
    fake.dag |= change
    with pytest.raises(AirflowApiError, match=words):
        ask(fake, many(1))
    assert fake.posted == 0


def test_a_foreign_run_under_the_id_is_refused(fake: FakeAirflow) -> None:
    """A run of the same id with other offsets is not taken for ours."""
    found = many(1)
    fake.runs[found.chunks[0].run_id] = {"conf": {"eventlog_offsets": "0:5-6"}, "state": "success"}
    with pytest.raises(AirflowApiError, match="other offsets"):
        ask(fake, found)


CALLS: list[tuple[str, Callable[[AirflowClient], object]]] = [
    ("GET /api/v2/dags/p/details", lambda c: c.dag("p")),
    ("POST /api/v2/dags/p/dagRuns", lambda c: c.create_run("p", "r", {}, "")),
    ("GET /api/v2/dags/p/dagRuns/r", lambda c: c.run("p", "r")),
    ("POST /api/v2/dags/p/dagRuns/r/clear", lambda c: c.clear_run("p", "r")),
    ("GET /api/v2/dags/p/dagRuns", lambda c: c.states("p", "r", ["r"])),
]


@pytest.mark.parametrize(("prefix", "call"), CALLS, ids=[c[0] for c in CALLS])
def test_every_call_names_its_refusal(fake: FakeAirflow, prefix: str, call: Callable[[AirflowClient], object]) -> None:
    """401, 403, a passing failure and an answer that is no JSON have their errors at every call."""
    for answer, error, retriable in (
        (httpx.Response(401), AirflowAuthenticationError, False),
        (httpx.Response(403), AirflowPermissionError, False),
        (httpx.Response(403, json={"detail": "Invalid JWT token"}), AirflowAuthenticationError, False),
        (httpx.Response(503), AirflowUnavailableError, True),
        (httpx.Response(200, text="<html>"), AirflowApiError, False),
        (httpx.Response(418, json={"detail": "teapot\x1b[31m"}), AirflowApiError, False),
    ):
        fake.answers = {prefix: answer}
        with fake.client() as client, pytest.raises(error) as caught:
            call(client)
        assert caught.value.retriable is retriable
        assert SECRET not in str(caught.value)
        assert str(caught.value).isprintable()


def test_a_busy_server_is_asked_again(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the server's after it has made the run makes no second one: the run is found."""
    post, failures = fake.post, iter([httpx.Response(500), httpx.Response(503)])

    def lost(body: dict[str, Any]) -> httpx.Response:
        answer = post(body)
        return next(failures, answer)

    monkeypatch.setattr(fake, "post", lost)
    assert [(o["made"], o["state"]) for o in ask(fake, many(1)).values()] == [("before", "success")]
    assert (fake.posted, fake.slept) == (1, [0.5, 1.0])


def test_signing_in(fake: FakeAirflow) -> None:
    """A wrong password, and an Airflow without password sign-in, are named; no answer's body is shown."""
    with fake.client(Access("http://airflow.test", username="admin", password="wrong-pass-word")) as client:
        with pytest.raises(AirflowAuthenticationError, match="password of user 'admin'") as caught:
            client.dag("p")
    assert "wrong-pass-word" not in str(caught.value)
    echo = {"detail": [{"input": {"password": SECRET}}]}
    for status, words in ((422, "does not take the password"), (404, "EVENTLOG_AIRFLOW_TOKEN"), (418, "answered 418")):
        fake.answers = {"POST /auth/token": httpx.Response(status, json=echo)}
        with fake.client() as client, pytest.raises(AirflowApiError, match=words) as refused:
            client.dag("p")
        assert SECRET not in str(refused.value)


def test_a_token_that_runs_out_is_asked_for_again(fake: FakeAirflow) -> None:
    """With a password the client signs in anew; a token that was given and is refused is an error."""
    with fake.client() as client:
        client.dag("p")
        fake.valid = "token-2"
        assert client.dag("p")["dag_id"] == "p"
    with fake.client(Access("http://airflow.test", token="token-1")) as client:
        with pytest.raises(AirflowAuthenticationError, match="run out") as caught:
            client.dag("p")
    assert "token-1" not in str(caught.value)


def test_missing_and_refused(fake: FakeAirflow) -> None:
    """A DAG that is not there or stale, and params that do not pass the DAG's checks, have errors of their own."""
    with fake.client() as client:
        with pytest.raises(DagNotFoundError, match="--dag-id"):
            client.dag("q")
        fake.dag["is_stale"] = True
        with pytest.raises(DagNotFoundError):
            client.dag("p")
        fake.answers = {"POST /api/v2/dags/p/dagRuns": httpx.Response(400, json={"detail": "Invalid input for param"})}
        with pytest.raises(RunRefusedError, match="Invalid input for param"):
            client.create_run("p", "r", {}, "")


def test_nobody_there_is_retriable() -> None:
    """An address where nobody listens is a failure that may pass."""
    with AirflowClient(Access("http://127.0.0.1:1", token="t")) as client:
        with pytest.raises(AirflowUnavailableError, match="does not answer") as caught:
            client.dag("p")
    assert caught.value.retriable


def test_an_outage_while_waiting_is_sat_out(fake: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed look at the runs does not end the wait; one that lasts does."""
    listed, calls = fake.listed, iter([httpx.Response(503)])
    monkeypatch.setattr(airflow_runs, "_POLL_S", 0.0)
    monkeypatch.setattr(fake, "listed", lambda request: next(calls, None) or listed(request))
    assert {o["state"] for o in ask(fake, many(1)).values()} == {"success"}
    monkeypatch.setattr(fake, "listed", lambda _: httpx.Response(503))
    monkeypatch.setattr(airflow_runs, "_OUTAGE_S", -1.0)
    fake.runs.clear()
    with pytest.raises(AirflowUnavailableError):
        ask(fake, many(1))


def test_access_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, token and password are found, a token first; secrets are in no repr."""
    environ = {"EVENTLOG_AIRFLOW_URL": "http://a:8080/", "EVENTLOG_AIRFLOW_USERNAME": "u"}
    environ["EVENTLOG_AIRFLOW_PASSWORD"] = SECRET
    access = find_access(None, None, environ)
    assert access == Access("http://a:8080", username="u", password=SECRET)
    assert SECRET not in repr(access)
    assert find_access("https://b/x", None, {"EVENTLOG_AIRFLOW_TOKEN": "t"}) == Access("https://b/x", token="t")


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        (None, {}),
        ("http://a", {}),
        ("http://a", {"EVENTLOG_AIRFLOW_USERNAME": "u"}),
        ("http://u:topsecret@a", {"EVENTLOG_AIRFLOW_TOKEN": "t"}),
        ("ftp://a", {"EVENTLOG_AIRFLOW_TOKEN": "t"}),
        ("http://a:port", {"EVENTLOG_AIRFLOW_TOKEN": "t"}),
        ("http://a?x=1", {"EVENTLOG_AIRFLOW_TOKEN": "t"}),
        ("http://a", {"EVENTLOG_AIRFLOW_TOKEN": "t\u2026"}),
    ],
)
def test_unusable_access_is_wrong_usage(url: str | None, environ: dict[str, str]) -> None:
    """No address, no sign-in, or an address that cannot be: said before anything is asked, without secrets."""
    with pytest.raises(UsageError) as caught:
        find_access(url, None, environ)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--holes", "--failed"),
        ("--from", "2013-01-01"),
        ("--holes", "--to", "2013-01-01"),
        ("--holes", "--chunk", "0"),
        ("--holes", "--local", "--no-wait"),
        ("--holes", "--local", "--dag-id", "d"),
    ],
)
def test_wrong_words_end_with_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Words that do not go together end with 2, before the pipeline's file is read."""
    assert main(["backfill", "--pipeline", "nowhere.py:p", *words]) == 2
    assert "there is no file" not in capsys.readouterr().err
