"""The ledger: every decision, in SQL. Import it where it is opened: it brings SQLAlchemy."""

from airflow_provider_eventlog.core.ledger.connect import make_ledger, open_ledger
from airflow_provider_eventlog.core.ledger.sql import SqlLedger

__all__ = ["SqlLedger", "make_ledger", "open_ledger"]
