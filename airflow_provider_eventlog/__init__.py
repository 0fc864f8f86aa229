"""Kafka topics as scheduled, bounded, repeatable batches in Airflow.

The names below are loaded at first use, so that a DAG file pays only for what it takes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.errors import EventLogError
    from airflow_provider_eventlog.declare import (
        Check,
        ColumnChecks,
        ControlTopic,
        CountsTable,
        DuckDB,
        FromGroup,
        Hopping,
        Json,
        Pipeline,
        ProducerCounts,
        Raw,
        Rows,
        Sequence,
        Session,
        Stream,
        TableChecks,
        Tumbling,
        Windows,
    )
    from airflow_provider_eventlog.hooks.eventlog import EventLogHook
    from airflow_provider_eventlog.operators.batch import eventlog_batch
    from airflow_provider_eventlog.operators.land import LandSlicesOperator
    from airflow_provider_eventlog.operators.load import LoadBatchOperator
    from airflow_provider_eventlog.operators.plan import PlanBatchOperator
    from airflow_provider_eventlog.operators.run import RunBatchOperator
    from airflow_provider_eventlog.operators.transform import TransformSlicesOperator
    from airflow_provider_eventlog.operators.validate import ValidateBatchOperator
    from airflow_provider_eventlog.sensors.offsets import OffsetsSensor

    __version__: str

__all__ = [
    "Check",
    "ColumnChecks",
    "ControlTopic",
    "CountsTable",
    "DuckDB",
    "EventLogError",
    "EventLogHook",
    "FromGroup",
    "Hopping",
    "Json",
    "LandSlicesOperator",
    "LoadBatchOperator",
    "OffsetsSensor",
    "Pipeline",
    "PlanBatchOperator",
    "ProducerCounts",
    "Raw",
    "Rows",
    "RunBatchOperator",
    "Sequence",
    "Session",
    "Stream",
    "TableChecks",
    "TransformSlicesOperator",
    "Tumbling",
    "ValidateBatchOperator",
    "Windows",
    "__version__",
    "eventlog_batch",
]

_HOMES = {
    "Check": "declare",
    "ColumnChecks": "declare",
    "ControlTopic": "declare",
    "CountsTable": "declare",
    "DuckDB": "declare",
    "EventLogError": "core.errors",
    "EventLogHook": "hooks.eventlog",
    "FromGroup": "declare",
    "Hopping": "declare",
    "Json": "declare",
    "LandSlicesOperator": "operators.land",
    "LoadBatchOperator": "operators.load",
    "OffsetsSensor": "sensors.offsets",
    "Pipeline": "declare",
    "PlanBatchOperator": "operators.plan",
    "ProducerCounts": "declare",
    "Raw": "declare",
    "Rows": "declare",
    "RunBatchOperator": "operators.run",
    "Sequence": "declare",
    "Session": "declare",
    "Stream": "declare",
    "TableChecks": "declare",
    "TransformSlicesOperator": "operators.transform",
    "Tumbling": "declare",
    "ValidateBatchOperator": "operators.validate",
    "Windows": "declare",
    "eventlog_batch": "operators.batch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("airflow-provider-eventlog")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
