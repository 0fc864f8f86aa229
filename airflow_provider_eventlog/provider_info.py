"""What Airflow discovers about this package: read by every Airflow process at its start, so it imports nothing."""

from __future__ import annotations

from typing import Any

_NAME = "Event log"
_OPERATORS = (
    "operators.batch",
    "operators.plan",
    "operators.land",
    "operators.transform",
    "operators.validate",
    "operators.load",
    "operators.run",
)


def get_provider_info() -> dict[str, Any]:
    """The provider's description, valid against Airflow's `provider_info.schema.json`."""
    return {
        "package-name": "airflow-provider-eventlog",
        "name": _NAME,
        "description": "Turns unbounded Kafka topics into scheduled, bounded, repeatable batches.",
        "versions": ["0.1.0"],
        "integrations": [
            {"integration-name": _NAME, "external-doc-url": "https://kafka.apache.org/", "tags": ["software"]}
        ],
        "hooks": _documented("hooks.eventlog"),
        "operators": _documented(*_OPERATORS),
        "sensors": _documented("sensors.offsets"),
        "triggers": _documented("triggers.offsets"),
        "task-decorators": [
            {"name": "eventlog", "class-name": "airflow_provider_eventlog.operators.decorator.eventlog_task"}
        ],
        "extra-links": ["airflow_provider_eventlog.operators.links.BatchReportLink"],
        "cli": ["airflow_provider_eventlog.cli.airflow_command.get_cli_commands"],
        "config": {"eventlog": {"description": "Where batches are kept.", "options": _OPTIONS}},
    }


def _documented(*modules: str) -> list[dict[str, Any]]:
    return [{"integration-name": _NAME, "python-modules": [f"airflow_provider_eventlog.{m}" for m in modules]}]


_OPTIONS: dict[str, dict[str, Any]] = {
    "staging_root": {
        "description": (
            "Folder of the staged Parquet files; all workers must see the same one. A relative path resolves below "
            "AIRFLOW_HOME. Empty: eventlog/staging below AIRFLOW_HOME. A stream's own `staging` goes before it."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "/srv/eventlog/staging",
        "default": "",
    },
    "ledger_conn_id": {
        "description": (
            "Connection of the ledger: of type postgres, or of type sqlite whose host is the path of a file on the "
            "one host that runs the tasks. Empty: eventlog/ledger.sqlite below AIRFLOW_HOME."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "eventlog_ledger",
        "default": "",
    },
}
