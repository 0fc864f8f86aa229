"""The plugin that shows batch reports in Airflow, to those who may read the DAG that the batch ran in.

Every component of Airflow imports this module; the pages are built by the server that is asked for one.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI


@cache
def _application() -> FastAPI:
    from airflow_provider_eventlog.plugins.pages import application

    return application()


class _Lazily:
    """An ASGI application that is made when it is first asked."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _application()(scope, receive, send)


class EventLogPlugin(AirflowPlugin):
    """Mounts `plugins.pages` below /eventlog."""

    name = "eventlog"
    fastapi_apps = [{"app": _Lazily(), "url_prefix": "/eventlog", "name": "eventlog"}]  # noqa: RUF012
