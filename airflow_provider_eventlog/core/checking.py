"""`eventlog check`: a declaration held against the topic, the staging root and the targets, nothing written."""

from __future__ import annotations

from typing import Any

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import TopicReplacedError
from airflow_provider_eventlog.core.planning.plan import replaced
from airflow_provider_eventlog.core.protocols import OutputId, TargetState
from airflow_provider_eventlog.declare.completeness import CountsTable, ProducerCounts
from airflow_provider_eventlog.declare.outputs import Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline


def check_all(engine: Engine, pipeline: Pipeline) -> dict[str, Any]:
    """What was found, as JSON values; raises the first thing that is wrong with the error a run would raise."""
    columns = stages.check(pipeline)
    source = engine.source(pipeline.stream)
    topic = source.describe()
    starts, ends = source.log_starts(), source.log_ends()
    epochs = engine.ledger.epochs(pipeline.stream.name)
    if epochs and epochs[-1].identity != topic.identity:
        raise TopicReplacedError(replaced(epochs[-1].identity, topic.identity))
    checked: dict[str, Any] = {
        "topic": str(topic.identity),
        "partitions": topic.partitions,
        "offsets in the log": sum(ends.values()) - sum(starts.values()),
        "stream": f"epoch {epochs[-1].epoch}" if epochs else "not planned yet",
    }
    for output in pipeline.outputs:
        table = engine.open_target(Rows(output.target, name=output.name)).state(
            OutputId(engine.ledger.ledger_id, pipeline.name, output.name)
        )
        found = "does not exist yet" if table.state is TargetState.ABSENT else "is this output's"
        checked[f"output {output.name}"] = f"table {output.target.table} {found}"
    checked |= _completeness(engine, pipeline)
    return {
        "pipeline": pipeline.name,
        "recipe": pipeline.recipe,
        "columns": columns,
        "checked": checked,
        "windows": stages.describe_windows(pipeline),
    }


def _completeness(engine: Engine, pipeline: Pipeline) -> dict[str, str]:
    """That the counts of producers can be read; raises the error that a run would raise."""
    from airflow_provider_eventlog.core.completeness import control, table

    found = {}
    for rule in pipeline.completeness:
        if not isinstance(rule, ProducerCounts):
            continue
        if isinstance(rule.source, CountsTable):
            found[f"completeness {rule.name}"] = table.probe(rule, rule.source)
        else:
            seen = control.control_ranges(engine, rule, rule.source, None)
            found[f"completeness {rule.name}"] = f"topic {rule.source.topic}, {len(seen['ranges'])} partitions"
    return found
