"""Batch reports in a real Airflow: from the task to the page, for those who may read the DAG."""

from __future__ import annotations

import re

import httpx

from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka, TopicFactory
from demo.airflow import AirflowStandalone

HOSTILE = b"</bdi></code><script>alert(1)</script>\x00\xe2\x80\xae"


def test_a_held_batch_leads_from_its_task_to_its_report(
    airflow: AirflowStandalone, eventlog_kafka: SessionKafka, eventlog_topic: TopicFactory
) -> None:
    """The failed task's link opens the report: 401 or 403 without Airflow's credentials, 200 with them, 404 for others.

    The payload that was held stands in the page as text.
    """
    eventlog_topic(1, name="reported")
    sent = produce(
        "reported", [Record(b'{"n": 1}'), Record(HOSTILE)], {"bootstrap.servers": eventlog_kafka.bootstrap_servers}
    )
    assert (sent.sent, sent.failed) == (2, 0)
    airflow.wait_dag("reported_dag")
    airflow.unpause("reported_dag")
    run = airflow.trigger(
        "reported_dag", conf={"eventlog_what": "offsets", "eventlog_offsets": "0:0-2"}, run_id="r+1:a"
    )
    assert airflow.wait_run("reported_dag", run, expect="failed") == "failed"
    links = airflow.api("GET", f"/dags/reported_dag/dagRuns/{run}/taskInstances/reported.validate/links")
    path = links["extra_links"]["Batch report"]
    assert path == "/eventlog/report/reported_dag/r%2B1%3Aa/reported"

    with httpx.Client(base_url=airflow.base_url, trust_env=False) as client:
        allowed = {"Authorization": f"Bearer {airflow.token()}"}
        listing = client.get(path, headers=allowed)
        assert listing.status_code == 200
        (name,) = re.findall(r'href="(reported/report-held-[0-9a-f]{16}\.html)"', listing.text)
        address = f"{path.removesuffix('/reported')}/{name}"
        for wanted in (path, address):
            assert client.get(wanted).status_code == 401
            assert client.get(wanted, headers={"Authorization": "Bearer not.a.token"}).status_code == 403
        page = client.get(address, headers=allowed)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x00\\u202e" in page.text
        for other in (path.replace("reported_dag", "flights"), f"{path}/commit.json", path.replace("r%2B1", "r%2B2")):
            assert client.get(other, headers=allowed).status_code == 404
        # The browser that shows Airflow's pages has its token in a cookie.
        assert client.get(address, headers={"Cookie": f"_token={airflow.token()}"}).status_code == 200
