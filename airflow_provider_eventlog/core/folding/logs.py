"""Fold logs: the one that an output's windows are folded by, and where a first one begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import head
from airflow_provider_eventlog.core.folding.head import Head
from airflow_provider_eventlog.core.planning.words import BEGINNING
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, StagedFile
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

FIRST = "first batch"
_NAMES = ("pipeline", "output", "log", "n", "cause", "batch_id", "about", "watermark")


def newest(engine: Engine, pipeline: str, output: str) -> FoldLog | None:
    """The log that is folded now; those before it are history."""
    logs = engine.ledger.fold_logs(pipeline, output)
    return logs[-1] if logs else None


def of_output(engine: Engine, pipeline: Pipeline, output: Windows) -> FoldLog | None:
    """The output's log, or the one that its first fold will open where its chain begins; None while that is not known.

    With start="interval" the chain begins with the schedule's first interval, which need not be the one that is planned
    first: a schedule that catches up is waited for.
    """
    log = newest(engine, pipeline.name, output.name)
    if log is not None:
        return log
    found = _origin(engine, pipeline)
    return None if found is None else FoldLog(pipeline.name, output.name, 1, *found, pipeline.recipe, FIRST)


def open_log(engine: Engine, stream: str, log: FoldLog) -> FoldLog:
    """Open a log once, in the ledger first, then in staging; the one that stands under its number."""
    stands = engine.ledger.open_fold_log(log)
    write_down_log(engine, stream, stands)
    return stands


def begin(pipeline: Pipeline, log: FoldLog) -> Head:
    """The head of a log before its first fold."""
    return head.begin(log, whole=log.origin == BEGINNING or pipeline.stream.start == "earliest")


def _origin(engine: Engine, pipeline: Pipeline) -> tuple[int, int] | None:
    """Epoch and instant of the first chain batch that the pipeline has taken."""
    stream, name = pipeline.stream, pipeline.name
    taken = {generation.batch_id for generation in engine.ledger.generations(name)}
    requests = [RunRequest.from_json(run.request) for run in engine.ledger.runs(name)]
    catching_up = any(r.mode == "interval" and r.gap == "hole" for r in requests)
    if stream.start == "interval" and catching_up and not any(r.first for r in requests):
        return None
    for plan, _ in engine.ledger.batches(stream.name):
        if plan.batch_id in taken and plan.kind == "chain" and plan.from_instant is not None:
            return plan.epoch, plan.from_instant
    return None


def write_down_log(engine: Engine, stream: str, log: FoldLog) -> None:
    """The record of a log, from which a lost ledger is made again."""
    path = paths.fold_record(stream, log.pipeline, log.output, log.log, 0)
    engine.staging.publish_json(path, log_json(log))


def log_json(log: FoldLog) -> dict[str, Any]:
    """A log as JSON values; `FoldLog(**value)` reads it back."""
    return {name: getattr(log, name) for name in log.__slots__}


def write_down(engine: Engine, stream: str, record: FoldRecord) -> None:
    """The record of a fold that stands in the ledger: only there is decided which fold n is."""
    path = paths.fold_record(stream, record.pipeline, record.output, record.log, record.n)
    # Unlike `exists` it tells of what outlives a loss of power.
    if engine.staging.stat(path) is None:
        engine.staging.publish_json(path, to_json(record))


def to_json(record: FoldRecord) -> dict[str, Any]:
    """A fold as JSON values; `of_json` reads it back."""
    files = {kind: [f.path, f.bytes, f.sha256, digest] for kind, (f, digest) in record.files.items()}
    return {
        **{name: getattr(record, name) for name in _NAMES},
        "inputs": [list(one) for one in record.inputs],
        "files": files,
        "accounting": dict(record.accounting),
    }


def of_json(value: Mapping[str, Any]) -> FoldRecord:
    """What `to_json` gave, read back; raises KeyError, TypeError, ValueError for what it cannot have given."""
    return FoldRecord(
        **{name: value[name] for name in _NAMES},
        inputs=tuple((batch_id, generation, digest) for batch_id, generation, digest in value["inputs"]),
        files={
            kind: (StagedFile(path, size, sha), digest) for kind, (path, size, sha, digest) in value["files"].items()
        },
        accounting=value["accounting"],
    )
