"""Pages of batch reports, behind Airflow's own authentication; 404 for all that a run did not take.

/eventlog/report/{dag_id}/{run_id}/{pipeline}         the reports of a run, as a list
/eventlog/report/{dag_id}/{run_id}/{pipeline}/{name}  one of them, as it was published

Who may read the DAG's XComs may read the reports of its runs. A run's name in the ledger begins with its DAG's, which
has no slash in it: nobody reaches another DAG's run by one that they may read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from json import loads
from typing import Annotated
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response

from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.protocols import Ledger, Staging
from airflow_provider_eventlog.core.report import html, publish

# A page's own policy, in the page, narrows this down to the one style sheet that it has.
LISTING = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
# A report leads nowhere: it is shown as if it came from no host at all.
REPORT = {**LISTING, "Content-Security-Policy": LISTING["Content-Security-Policy"] + "; sandbox"}


may_read = requires_access_dag("GET", DagAccessEntity.XCOM)
_MayRead = Annotated[None, Depends(may_read)]


def application() -> FastAPI:
    """The application that the plugin mounts; every route asks Airflow first."""
    # No pages of its own about itself: those would stand open.
    made = FastAPI(title="eventlog", docs_url=None, redoc_url=None, openapi_url=None)

    @made.get("/report/{dag_id}/{run_id}/{pipeline}")
    def run(dag_id: str, run_id: str, pipeline: str, _: _MayRead) -> Response:
        with _stores(pipeline) as (ledger, staging):
            found = tuple(publish.of_run(ledger, staging, f"{dag_id}/{run_id}", pipeline))
        if not found:
            raise _nothing()
        links = [
            (f"batch {one.batch_id}, generation {one.generation}, {one.state}", f"{quote(pipeline)}/{quote(one.name)}")
            for one in found
        ]
        return HTMLResponse(html.listing(f"{dag_id}, {run_id}: {pipeline}", links), headers=LISTING)

    @made.get("/report/{dag_id}/{run_id}/{pipeline}/{name}")
    def one(dag_id: str, run_id: str, pipeline: str, name: str, _: _MayRead) -> Response:
        with _stores(pipeline) as (ledger, staging):
            found = publish.of_run(ledger, staging, f"{dag_id}/{run_id}", pipeline)
            # Only a name that is listed is read: none is made of what was asked for.
            wanted = next((page for page in found if page.name == name), None)
            if wanted is None:
                raise _nothing()
            return HTMLResponse(publish.read(staging, wanted), headers=REPORT)

    return made


@contextmanager
def _stores(pipeline: str) -> Iterator[tuple[Ledger, Staging]]:
    """Ledger and staging as this server is configured; what it does not have, or cannot read, is not found."""
    from airflow_provider_eventlog.core.engine import open_staging_at
    from airflow_provider_eventlog.core.home import home
    from airflow_provider_eventlog.hooks.config import open_read_ledger, staging_root

    try:
        with closing(open_read_ledger()) as ledger:
            declared = {name: loads(text) for name, _, _, text in ledger.pipelines()}.get(pipeline)
            if declared is None:
                raise _nothing()
            yield ledger, open_staging_at(home(), declared["stream"]["staging"] or staging_root())
    except EventLogError as error:
        raise HTTPException(404, f"This server cannot show the report ({type(error).__name__}).") from error


def _nothing() -> HTTPException:
    return HTTPException(404, "There is no such report.")
