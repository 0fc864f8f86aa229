"""Planning: freeze which offsets a run takes, before any of them is landed."""

from airflow_provider_eventlog.core.planning.plan import plan_run, preview_run

__all__ = ["plan_run", "preview_run"]
