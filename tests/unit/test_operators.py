"""Operators, task group and decorator, without a running Airflow."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, CronDataIntervalTimetable
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_provider_eventlog.core import errors, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import DeclarationError, EventLogError, ReadCancelledError
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from airflow_provider_eventlog.operators import common, decorator
from airflow_provider_eventlog.operators.batch import eventlog_batch
from airflow_provider_eventlog.operators.common import Progress, StageOperator, retried_only_if_it_can_help
from airflow_provider_eventlog.operators.decorator import eventlog_task
from airflow_provider_eventlog.operators.land import LandSlicesOperator
from airflow_provider_eventlog.operators.plan import PlanBatchOperator

ERRORS = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, EventLogError)]
TRICKY = "select n, '{{ ds }} {% raw {# .sql' as t from batch"


def pipeline(name: str = "p", topic: str = "t", **more: Any) -> Pipeline:
    stream = Stream(topic, decode=Json({"n": "BIGINT"}))
    return Pipeline(name, stream=stream, outputs=[Rows(DuckDB("x.duckdb", table=name.replace(".", "_")))], **more)


def dag(dag_id: str = "d") -> DAG:
    schedule = CronDataIntervalTimetable("@hourly", timezone="UTC")
    return DAG(dag_id, schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Engines that are opened, as the arguments that they were opened with; the protocols behind them are absent."""
    calls: list[dict[str, Any]] = []

    def open_engine(stream: Stream, **given: Any) -> Engine:
        calls.append({"stream": stream, **given})
        absent: Any = SimpleNamespace(close=lambda: None)
        return Engine(absent, absent, absent, absent, cancel=given["cancel"], progress=given["progress"])

    monkeypatch.setattr(common, "open_stream_engine", open_engine)
    monkeypatch.setattr(decorator, "open_stream_engine", open_engine)
    return calls


@pytest.mark.parametrize("error", ERRORS)
def test_only_failures_that_may_pass_are_retried(error: type[EventLogError]) -> None:
    """A retriable error reaches Airflow as it is; any other becomes AirflowFailException, message and cause kept."""
    wanted = error if error.retriable else AirflowFailException
    with pytest.raises(wanted, match="what happened") as raised:
        with retried_only_if_it_can_help():
            raise error("what happened")
    if not error.retriable:
        assert isinstance(raised.value.__cause__, error)
        assert str(raised.value) == f"{error.__name__}: what happened"


def test_foreign_errors_are_left_to_airflow() -> None:
    """An error that is not ours is retried as the task says."""
    with pytest.raises(KeyError), retried_only_if_it_can_help():
        raise KeyError("bug")


def test_the_task_group() -> None:
    """Plan >> land >> transform >> validate >> load, the middle two mapped over plan's pointers."""
    with dag() as made:
        group = eventlog_batch(pipeline("a.b"))
    assert group.group_id == "a_b"
    order = ["a_b.plan", "a_b.land", "a_b.transform", "a_b.validate", "a_b.load"]
    assert [t.task_id for t in made.topological_sort()] == order
    for before, after in pairwise(order):
        assert after in made.get_task(before).downstream_task_ids
    assert [t.task_id for t in made.tasks if t.is_mapped] == order[1:3]


def test_one_task() -> None:
    """tasks="one" is a group with a single task."""
    with dag() as made:
        eventlog_batch(pipeline(), tasks="one")
    assert [t.task_id for t in made.tasks] == ["p.run"]


@pytest.mark.parametrize("given", [{"tasks": "two"}, {"parallelism": 0}, {"read": "all"}])
def test_malformed_arguments_are_refused(given: dict[str, Any]) -> None:
    """A malformed argument is refused where the DAG is parsed."""
    with dag(), pytest.raises(DeclarationError):
        eventlog_batch(pipeline(), **given)


def test_a_batch_needs_a_dag_and_a_pipeline() -> None:
    """Outside of a DAG, or with something else than a pipeline, the message says what to do."""
    with pytest.raises(DeclarationError, match="inside `with DAG"):
        eventlog_batch(pipeline())
    with dag(), pytest.raises(DeclarationError, match="must be a Pipeline"):
        eventlog_batch("p")  # type: ignore[arg-type]


def test_params_of_the_trigger_form() -> None:
    """The DAG has the params with description, choice, pattern and format; their defaults are valid for a schedule."""
    with dag() as made:
        eventlog_batch(pipeline())
    made.validate()
    schemas = {name: made.params.get_param(name).schema for name in made.params}
    assert set(schemas) == {
        "eventlog_what", "eventlog_offsets", "eventlog_from", "eventlog_to", "eventlog_recompute", "eventlog_batch",
        "eventlog_codes", "eventlog_checks", "eventlog_reason",
    }  # fmt: skip
    assert schemas["eventlog_what"]["enum"] == [
        "auto", "since_last", "interval", "offsets", "redrive", "release", "skip", "resume",
    ]  # fmt: skip
    assert {schemas[f"eventlog_{n}"]["format"] for n in ("from", "to")} == {"date-time"}
    assert all(made.params.get_param(name).description for name in made.params)
    assert made.params.dump() == {
        "eventlog_what": "auto",
        "eventlog_offsets": None,
        "eventlog_from": None,
        "eventlog_to": None,
        "eventlog_recompute": False,
        "eventlog_batch": None,
        "eventlog_codes": None,
        "eventlog_checks": None,
        "eventlog_reason": None,
    }


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("0:100-200", True),
        ("0:100-200,1:0-50", True),
        (" 0:1-2 , 3:4-5 ", True),
        ("", False),
        ("0:1-2,", False),
        ("0:1..2", False),
        ("x", False),
    ],
)
def test_the_form_takes_the_offsets_text(text: str, good: bool) -> None:
    """The param's pattern accepts what the parser reads and nothing else."""
    from airflow.sdk.exceptions import ParamValidationError

    with dag() as made:
        eventlog_batch(pipeline())
    param = made.params.get_param("eventlog_offsets")
    if good:
        assert param.resolve(text) == text
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(text)


def test_several_pipelines_add_a_choice() -> None:
    """A DAG with several pipelines lets a manual run take one of them; the author's own params stay."""
    with dag() as made:
        made.params["eventlog_what"] = "since_last"
        eventlog_batch(pipeline("b"))
        assert "eventlog_pipeline" not in made.params
        eventlog_batch(pipeline("a"), tasks="one")
    assert made.params.get_param("eventlog_pipeline").schema["enum"] == [None, "a", "b"]
    assert made.params["eventlog_what"] == "since_last"
    made.validate()


def test_the_declaration_is_shown_as_it_is() -> None:
    """Text in SQL that looks like a template is neither rendered nor an error, in plain and in mapped tasks."""
    declared = pipeline(transform=TRICKY)
    with dag() as made:
        eventlog_batch(declared)
    stored = {t["__var"]["task_id"]: t["__var"] for t in DagSerialization.to_dict(made)["dag"]["tasks"]}
    assert stored["p.plan"]["declaration"] == declared.serialize()
    assert stored["p.land"]["partial_kwargs"]["pipeline"] == str(declared)
    plain = made.get_task("p.plan")
    plain.render_template_fields({})
    mapped = made.get_task("p.land").unmap({"pointer": {"run_key": "{{ ds }}", "group": 0}})
    for task in (plain, mapped):
        rendered = task.declaration if task is plain else mapped.declaration(None, None)
        assert json.loads(rendered)["transform"] == {"sql": TRICKY}
        assert task.pipeline is declared


def test_tasks_survive_what_airflow_does_to_them() -> None:
    """A task that was prepared for execution is a copy that shares the pipeline."""
    declared = pipeline(transform=TRICKY)
    task = PlanBatchOperator(task_id="plan", pipeline=declared)
    copied = task.prepare_for_execution()
    assert copied is not task
    assert copied.pipeline is declared


def test_a_changed_recipe_changes_the_serialised_dag() -> None:
    """Airflow makes a new DAG version where the declaration changed, and only there."""

    def text(declared: Pipeline) -> str:
        with dag() as made:
            eventlog_batch(declared)
        return json.dumps(DagSerialization.to_dict(made), sort_keys=True)

    assert text(pipeline(transform="select n from batch")) == text(pipeline(transform="select n from batch"))
    assert text(pipeline(transform="select n from batch")) != text(pipeline(transform="select n + 1 as n from batch"))


def test_land_delegates_to_its_stage(opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator lands the group that its pointer names, of its own pipeline, and pushes nothing."""
    seen: list[Any] = []

    def land(engine: Engine, given: Pipeline, run_key: str, group: int) -> dict[str, Any]:
        seen.append((given, run_key, group))
        return {"slices": 1, "accounting": {"length": 5}, "losses": []}

    monkeypatch.setattr(stages, "land", land)
    declared = pipeline()
    task = LandSlicesOperator(task_id="land", pipeline=declared, pointer={"run_key": "d/r", "group": 3})
    assert task.execute({}) is None  # type: ignore[typeddict-item]
    assert seen == [(declared, "d/r", 3)]
    assert [o["stream"] for o in opened] == [declared.stream]


def test_a_kill_stops_the_stage(opened: list[dict[str, Any]]) -> None:
    """on_kill from another thread ends a stage that looks at its engine's cancel event, with a retriable error."""

    class Endless(StageOperator):
        def work(self, engine: Engine, context: Any) -> None:
            started.set()
            while not engine.cancel.wait(0.01):
                assert threading.main_thread().is_alive()
            engine.check_cancelled()

    started = threading.Event()
    task = Endless(task_id="endless", pipeline=pipeline())
    task.on_kill()
    killer = threading.Thread(target=lambda: started.wait(10) and task.on_kill())
    killer.start()
    with pytest.raises(ReadCancelledError):
        task.execute({})  # type: ignore[typeddict-item]
    killer.join()


def test_progress_is_bounded() -> None:
    """However often a stage reports, the log gets a line every ten seconds, and the end."""
    lines: list[str] = []
    now = [0.0]
    progress = Progress(lines.append, clock=lambda: now[0])
    for done in range(1, 1001):
        now[0] += 0.1
        progress("landed offsets", done, 1000)
    assert 9 <= len(lines) <= 11
    assert lines[-1] == "landed offsets: 1,000 of 1,000"


def test_the_decorator_hands_over_one_batch(opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The function gets the run's decoded rows first, then its own arguments and what it asks of the context."""
    import pyarrow as pa

    made = SimpleNamespace(run_key="d/r", groups=[(), ()], batches=())
    landed: list[int] = []
    monkeypatch.setattr(decorator, "plan_run", lambda *given: made)

    def land(engine: Any, given: Any, run_key: str, group: int) -> dict[str, Any]:
        landed.append(group)
        return {"losses": []}

    monkeypatch.setattr(stages, "land", land)
    monkeypatch.setattr(stages, "batch_table", lambda engine, given, run_key: pa.table({"n": [1, 2]}))

    def total(batch: Any, factor: int, run_id: str | None = None) -> Any:
        return (
            type(batch).__name__,
            sum(batch["n"].to_pylist() if hasattr(batch, "schema") else batch["n"]) * factor,
            run_id,
        )

    for frame, kind in (("arrow", "Table"), ("pandas", "DataFrame")):
        with dag() as holder:
            eventlog_task(total, pipeline=pipeline(), frame=frame)(factor=3)
        result = holder.tasks[0].execute({"run_id": "r"})  # type: ignore[typeddict-item]
        assert result == (kind, 9, "r")
    assert landed == [0, 1, 0, 1]


def test_the_decorator_checks_at_parse() -> None:
    """A wrong frame, a missing pipeline, or a function without room for the batch is a DAG import error."""

    def fits(batch: Any) -> None: ...

    def does_not() -> None: ...

    with dag():
        with pytest.raises(DeclarationError, match="frame"):
            eventlog_task(fits, pipeline=pipeline(), frame="polars")()
        with pytest.raises(DeclarationError, match="must be a Pipeline"):
            eventlog_task(fits, pipeline=None)()
        with pytest.raises(TypeError, match="positional"):
            eventlog_task(does_not, pipeline=pipeline())()


def test_plan_says_first_what_the_run_takes(caplog: pytest.LogCaptureFixture) -> None:
    """The first line of plan's log is the headline."""
    from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, PlannedBatch, RunPlan, TopicIdentity
    from airflow_provider_eventlog.operators import plan
    from airflow_provider_eventlog.operators.request import Planning

    batch = BatchPlan("b1", "t", 1, "chain", 0, 1, (OffsetRange(0, 100, 200),), (OffsetRange(0, 100, 200),))
    made = RunPlan("d/r", "p", "t", 1, TopicIdentity("c", "t", "i"), "x", (PlannedBatch(batch, 1, "new"),), ((),))
    run = SimpleNamespace(dag_id="d", run_id="r", run_type="manual")
    keys: list[str] = []

    def planned(engine: Any, given: Pipeline, request: Any, key: str) -> RunPlan:
        keys.append(key)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "plan", planned)
        with caplog.at_level(logging.INFO):
            say = logging.getLogger("plan").info
            plan.plan_run(None, pipeline(), Planning(), {"dag_run": run, "params": {}}, say)  # type: ignore[arg-type, typeddict-item]
    assert keys == ["d/r"]
    assert caplog.messages[0] == stages.headline(made)
    assert "partition 0, offsets 100 to 199" in caplog.messages[1]
