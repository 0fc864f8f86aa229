"""Decisions: taken in the ledger, written down in staging, so that a lost ledger can be made again from it."""

from __future__ import annotations

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.protocols import Decision
from airflow_provider_eventlog.core.staging import paths


def decide(engine: Engine, decision: Decision) -> None:
    """Keep a decision in the ledger, then in staging. Raises the ledger's and the staging errors of `core.errors`.

    After a failure behind the ledger the decision stands; `write_down`, or the same call again, adds the record.
    """
    engine.ledger.decide(decision)
    _publish(engine, decision)
    engine.ledger.written([decision.id])


def write_down(engine: Engine, stream: str) -> None:
    """Write the records of those decisions about a stream that have none yet, for one whose attempt was killed."""
    missing = engine.ledger.unwritten(stream)
    for decision in missing:
        # Not merely there: what a killed attempt linked may be lost with the power.
        if engine.staging.stat(paths.decision(stream, decision.kind, decision.id)) is None:
            _publish(engine, decision)
    if missing:
        engine.ledger.written([decision.id for decision in missing])


def _publish(engine: Engine, decision: Decision) -> None:
    path = paths.decision(decision.stream, decision.kind, decision.id)
    engine.staging.publish_json(path, decision.to_json())
