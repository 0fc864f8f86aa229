"""What a user writes: frozen, validated values without I/O, light enough for a file parsed every few seconds."""

from airflow_provider_eventlog.declare.batch_checks import ColumnChecks, TableChecks
from airflow_provider_eventlog.declare.checks import Check
from airflow_provider_eventlog.declare.completeness import ControlTopic, CountsTable, ProducerCounts, Sequence
from airflow_provider_eventlog.declare.decode import Json, Raw
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.stream import FromGroup, Stream
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling, Windows

__all__ = [
    "Check",
    "ColumnChecks",
    "ControlTopic",
    "CountsTable",
    "DuckDB",
    "FromGroup",
    "Hopping",
    "Json",
    "Pipeline",
    "ProducerCounts",
    "Raw",
    "Rows",
    "Sequence",
    "Session",
    "Stream",
    "TableChecks",
    "Tumbling",
    "Windows",
]
