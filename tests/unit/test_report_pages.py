"""The pages in Airflow's server: nothing without Airflow's word, nothing that a run did not take, nothing outside."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import tomllib
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.errors import BatchHeldError, CheckFailedError
from airflow_provider_eventlog.core.report import publish
from airflow_provider_eventlog.declare import Check
from airflow_provider_eventlog.operators.links import BatchReportLink, reported
from airflow_provider_eventlog.operators.load import LoadBatchOperator
from airflow_provider_eventlog.operators.run import RunBatchOperator
from airflow_provider_eventlog.operators.validate import ValidateBatchOperator
from airflow_provider_eventlog.plugins.reports import EventLogPlugin
from airflow_provider_eventlog.provider_info import get_provider_info
from tests.support.upkept import PIPELINE, Upkept


def _pages() -> Any:
    """The module under test; Airflow's own server imports what warns of its age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("airflow_provider_eventlog.plugins.pages")


pages = _pages()
RUN = "a.dag/manual__2026-01-01T00:00:00+00:00"
AT = "/report/a.dag/manual__2026-01-01T00%3A00%3A00%2B00%3A00"


class Client:
    """A browser that speaks to an application without a server."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, path: str) -> httpx.Response:
        """One request."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.get(path)

        return asyncio.run(ask())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upkept:
    """A loaded batch whose run published its reports, in the home that the pages look at."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    made = Upkept(tmp_path)
    made.run(0, key=RUN)
    with made.engine() as engine, reported(engine, PIPELINE, RUN, logging.getLogger("test")):
        pass
    return made


@pytest.fixture
def visitor(world: Upkept) -> Client:
    """Somebody whom Airflow has not been asked about."""
    return Client(pages.application())


@pytest.fixture
def reader(world: Upkept) -> Client:
    """Somebody who may read every DAG."""
    app = pages.application()
    app.dependency_overrides[pages.may_read] = lambda: None
    return Client(app)


def names(client: Client) -> list[str]:
    """The addresses that the run's list leads to."""
    answer = client.get(f"{AT}/p")
    assert answer.status_code == 200
    return re.findall(r'href="([^"]+)"', answer.text)


def test_without_airflows_word_nothing_is_shown(visitor: Client, world: Upkept) -> None:
    """Every route asks Airflow first: 401 without credentials, for what there is and for what there is not."""
    with world.engine() as engine:
        (found,) = publish.of_run(engine.ledger, engine.staging, RUN, "p")
    for path in (f"{AT}/p", f"{AT}/p/{found.name}", f"{AT}/none", f"{AT}/p/none"):
        assert visitor.get(path).status_code == 401, path
    for path in ("/docs", "/openapi.json", "/redoc", "/"):
        assert visitor.get(path).status_code == 404


def test_every_route_has_the_guard() -> None:
    """No route can be added without the guard."""
    from fastapi.routing import APIRoute

    routes = pages.application().routes
    assert len(routes) == 2
    for route in routes:
        assert isinstance(route, APIRoute)
        assert pages.may_read in [dependency.call for dependency in route.dependant.dependencies]


def test_a_run_leads_to_its_reports(reader: Client, world: Upkept) -> None:
    """The list has the run's report, and the report is what was published, byte by byte, under a strict policy."""
    (name,) = names(reader)
    answer = reader.get(f"{AT}/{name}")
    with world.engine() as engine:
        (found,) = publish.of_run(engine.ledger, engine.staging, RUN, "p")
        assert answer.content == publish.read(engine.staging, found)
    assert (found.state, answer.status_code) == ("loaded", 200)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert policy.endswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]


def test_what_the_run_did_not_take_is_not_found(reader: Client, world: Upkept) -> None:
    """Other runs, pipelines and names are 404, also names that exist for another run, and ways out of the folder."""
    (name,) = names(reader)
    file = name.removeprefix("p/")
    world.run(1, key="other/run")
    with world.engine() as engine, reported(engine, PIPELINE, "other/run", logging.getLogger("test")):
        pass
    assert reader.get("/report/other/run/p").status_code == 200
    commit = "..%2F..%2F..%2Fepoch%3D1%2Fmanifests"
    for path in (
        "/report/a.dag/unknown/p",
        f"{AT}/q",
        f"{AT}/p/{file[:-6]}0.html",
        f"/report/other/run/p/{file}",
        f"{AT}/p/commit.json",
        f"{AT}/p/{commit}",
        f"{AT}/..%2Fp/{file}",
        f"{AT}/p/{file}%00",
        "/report/~/run/p",
    ):
        assert reader.get(path).status_code == 404, path


def test_a_page_that_was_changed_is_not_shown(reader: Client, world: Upkept) -> None:
    """A file that does not hold what its name says, or a link in its place, is not handed out."""
    (name,) = names(reader)
    file = next(world.root.rglob("report-*.html"))
    file.write_text("<script>alert(1)</script>")
    answer = reader.get(f"{AT}/{name}")
    assert (answer.status_code, "script" in answer.text) == (404, False)
    target = world.home / "elsewhere.html"
    file.rename(target)
    file.symlink_to(target)
    assert reader.get(f"{AT}/{name}").status_code == 404


def test_equal_state_is_published_once_and_decisions_add_pages(world: Upkept) -> None:
    """Publishing again adds nothing; a held batch, its release and its load have a page each, in this order."""
    before = sorted(world.root.rglob("report-*.html"))
    strict = PIPELINE.replace(name="strict", checks=[Check("early", "_offset < 3")])
    log = logging.getLogger("test")
    with world.engine() as engine:
        publish.publish(engine, "p", *engine.ledger.run(RUN, "p").batches[0][:2])  # type: ignore[union-attr]
        assert sorted(world.root.rglob("report-*.html")) == before
    with pytest.raises(CheckFailedError):
        world.run(0, strict, key="s/r")
    with world.engine() as engine:
        with pytest.raises(BatchHeldError), reported(engine, strict, "s/r", log):
            stages.validate(engine, strict, "s/r")
        batch = engine.ledger.run_plan("s/r", "strict").batches[0].batch.batch_id
        gate.release(engine, "strict", batch, who="me", why="known")
        with reported(engine, strict, "s/r", log):
            stages.validate(engine, strict, "s/r")
        assert [p.state for p in publish.of_run(engine.ledger, engine.staging, "s/r", "strict")] == [
            "held",
            "validated",
        ]
        findings = world.fsck()["findings"]
    assert [f for f in findings if "report" in str(f)] == []


def test_a_report_that_cannot_be_written_fails_nothing(
    world: Upkept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage's own result stands; the log says that there is no report."""
    calls: list[object] = []

    def full(*given: Any, **more: Any) -> str:
        calls.append(given)
        raise OSError("no room left")

    monkeypatch.setattr(publish, "publish", full)
    with world.engine() as engine, reported(engine, PIPELINE, RUN, logging.getLogger("test")):
        done = True
    assert done
    assert len(calls) == 1
    assert "no room left" in caplog.text


def test_the_link_leads_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link's path is the plugin's, with foreign names quoted, behind the prefix of the server's address."""
    ti: Any = SimpleNamespace(dag_id="a.dag", run_id=RUN.partition("/")[2])
    operator: Any = SimpleNamespace(pipeline=PIPELINE)
    assert BatchReportLink().get_link(operator, ti_key=ti) == f"/eventlog{AT}/p"
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://host/air/flow/")
    assert BatchReportLink().get_link(operator, ti_key=ti) == f"/air/flow/eventlog{AT}/p"
    ti.run_id = "a/../b?c#d"
    assert BatchReportLink().get_link(operator, ti_key=ti).endswith("/a.dag/a%2F..%2Fb%3Fc%23d/p")


def test_the_operators_have_the_link_and_airflow_knows_it() -> None:
    """Validate, load and run have the button; the provider names its class, without which Airflow drops it."""
    path = f"{BatchReportLink.__module__}.{BatchReportLink.__qualname__}"
    assert get_provider_info()["extra-links"] == [path]
    for operator in (ValidateBatchOperator, LoadBatchOperator, RunBatchOperator):
        assert [type(link) for link in operator.operator_extra_links] == [BatchReportLink]


def test_the_plugin_mounts_the_pages() -> None:
    """The plugin's application is the pages, below a prefix that Airflow does not keep."""
    (mounted,) = EventLogPlugin.fastapi_apps
    assert mounted["url_prefix"] == "/eventlog"


def test_the_package_declares_the_plugin() -> None:
    """Airflow finds the plugin by the entry point, whatever it thinks of providers' own plugins."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    points = declared["project"]["entry-points"]["airflow.plugins"]
    assert points == {"eventlog": f"{EventLogPlugin.__module__}:{EventLogPlugin.__qualname__}"}


COST = """
import sys
import airflow.plugins_manager
before = {name for name in sys.modules if not name.startswith("airflow_provider_eventlog")}
import airflow_provider_eventlog.plugins.reports
print(",".join(sorted(set(sys.modules) - before)))
"""


def test_the_plugin_costs_other_components_nothing(tmp_path: Path) -> None:
    """Every component of Airflow loads the plugin's module, which loads nothing but itself."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COST], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    package = "airflow_provider_eventlog"
    # Airflow's configuration asks every provider what it is.
    extra = set(done.stdout.split()[-1].split(",")) - {f"{package}.provider_info"}
    assert extra == {package, f"{package}.plugins", f"{package}.plugins.reports"}
