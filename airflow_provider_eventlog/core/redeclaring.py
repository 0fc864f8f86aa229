"""A pipeline made again from its registered declaration, where that tells all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.batch_checks import batch_checks
from airflow_provider_eventlog.declare.checks import Check
from airflow_provider_eventlog.declare.decode import Json, Raw
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.stream import Stream


def redeclare(declaration: Mapping[str, Any], recipe: str) -> Pipeline:
    """The pipeline that was registered under `recipe`; for reading staged records, never for Kafka.

    declaration  what `Pipeline.serialize()` says, as JSON values

    Raises DeclarationError where the declaration does not tell what runs: a Python transform is known by its digest
    only, and a part that this function cannot make gives another recipe.
    """
    name = printable(declaration.get("pipeline"))
    try:
        made = _made(declaration)
    except (KeyError, TypeError, AttributeError, DeclarationError) as error:
        raise _untold(name, str(error)) from error
    if made.recipe != recipe:
        raise _untold(name, "what is made of its registered declaration has another recipe")
    return made


def _made(value: Mapping[str, Any]) -> Pipeline:
    stream, transform = value["stream"], value["transform"] or {}
    if "python" in transform:
        raise DeclarationError("its transform is a Python function, of which the ledger keeps a digest")
    if any("rows" not in output for output in value["outputs"]):
        raise DeclarationError("it has outputs other than Rows")
    quarantine = value["quarantine"]
    return Pipeline(
        value["pipeline"],
        stream=Stream(stream["topic"], name=stream["name"], staging=stream["staging"]),
        outputs=[Rows(_target(o["rows"]["target"]), name=o["rows"]["name"]) for o in value["outputs"]],
        transform=transform.get("sql"),
        decode=Json(dict(value["decode"]["json"])) if "json" in value["decode"] else Raw(),
        event_time=value["event_time"],
        checks=[Check(**check) for check in value["checks"]],
        batch_checks=batch_checks(value.get("batch_checks")),
        version=value["version"],
        quarantine=None if quarantine is None else _target(quarantine),
        max_quarantine_ratio=value["max_quarantine_ratio"],
    )


def _target(value: Mapping[str, Any]) -> DuckDB:
    found = value["duckdb"]
    return DuckDB(found["path"], found["table"], found["schema"])


def _untold(name: str, why: str) -> DeclarationError:
    return DeclarationError(
        f"Pipeline {name} cannot be run by its registered name: {why}. Name where it is declared: FILE.py:VARIABLE."
    )
