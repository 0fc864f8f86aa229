"""The windows of the example DAGs on a real Airflow and Kafka, against lists and loops."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo.airflow import AirflowStandalone

START = datetime(2025, 1, 1, tzinfo=UTC)
DAGS = ("visits_fixed", "visits_sliding", "visits_session")
# (seconds after START, user, page, milliseconds), over three hours.
Visit = tuple[int, str, str, int]


def _visits() -> list[Visit]:
    chance = random.Random(7)
    times = sorted(chance.sample(range(3 * 3600), 200))
    return [(t, chance.choice("abc"), chance.choice(["/", "/cart"]), chance.randrange(900)) for t in times]


@pytest.fixture(scope="module")
def visits(airflow: AirflowStandalone, eventlog_kafka: SessionKafka) -> list[Visit]:
    """What was produced, after the three intervals of each DAG have run, in whatever order."""
    found = _visits()
    create_topic(eventlog_kafka.bootstrap_servers, "visits", 2, {"retention.ms": "-1"})
    records = []
    for number, (seconds, user, page, ms) in enumerate(found):
        at = START + timedelta(seconds=seconds)
        value = {"user": user, "page": page, "ms": ms, "ts": at.isoformat()}
        records.append(Record(json.dumps(value).encode(), None, number % 2, int(at.timestamp()) * 1000))
    sent = produce("visits", records, {"bootstrap.servers": eventlog_kafka.bootstrap_servers})
    assert (sent.sent, sent.failed) == (len(records), 0)
    for dag in DAGS:
        airflow.wait_dag(dag)
        airflow.unpause(dag)
    for dag in DAGS:
        airflow.wait_runs(dag, 3)
        airflow.pause(dag)
    return found


def _rows(airflow: AirflowStandalone, dag: str, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(airflow.home / f"{dag}.duckdb"), read_only=True) as connection:
        seconds = "CAST((epoch_ms(window_start) - 1735689600000) / 1000 AS BIGINT)"
        return connection.execute(sql.format(start=seconds)).fetchall()


def _windows(visits: list[Visit], size: int, every: int) -> dict[tuple[str, int], list[int]]:
    found: dict[tuple[str, int], list[int]] = {}
    for seconds, _, page, ms in visits:
        start = seconds // every * every
        while start > seconds - size:
            found.setdefault((page, start), []).append(ms)
            start -= every
    return found


def test_fixed_windows(airflow: AirflowStandalone, visits: list[Visit]) -> None:
    """Ten minutes by page: counts, least, greatest and mean are those of the visits, and none was late."""
    found = _rows(airflow, DAGS[0], "SELECT page, {start}, visits, fastest, slowest, mean FROM visits_by_page")
    expected = _windows(visits, 600, 600)
    assert {(page, start): tuple(rest) for page, start, *rest in found} == {
        key: (len(of), min(of), max(of), pytest.approx(sum(of) / len(of), abs=1e-6)) for key, of in expected.items()
    }
    finals = _rows(airflow, DAGS[0], "SELECT count(*) FILTER (WHERE _final), count(*) FROM visits_by_page")
    assert 0 < finals[0][0] < finals[0][1]


def test_sliding_windows(airflow: AirflowStandalone, visits: list[Visit]) -> None:
    """An hour every twenty minutes: each visit counts in three windows, medians are computed from their rows."""
    found = _rows(airflow, DAGS[1], "SELECT page, {start}, visits, median, slowest FROM slow_pages")
    expected = _windows(visits, 3600, 1200)
    assert {(page, start): tuple(rest) for page, start, *rest in found} == {
        key: (len(of), median(of), max(of)) for key, of in expected.items()
    }


def test_sessions(airflow: AirflowStandalone, visits: list[Visit]) -> None:
    """Sessions of users go on over hourly batches: one ends where a quarter of an hour passes without a visit."""
    found = _rows(airflow, DAGS[2], 'SELECT "user", {start}, visits, came_by, left_by FROM sessions ORDER BY ALL')
    expected, over = [], 0
    for user in sorted({visit[1] for visit in visits}):
        mine = [visit for visit in visits if visit[1] == user]
        sessions = [[mine[0]]]
        for visit in mine[1:]:
            if visit[0] - sessions[-1][-1][0] <= 900:
                sessions[-1].append(visit)
            else:
                sessions.append([visit])
        over += sum(of[0][0] // 3600 != of[-1][0] // 3600 for of in sessions)
        expected += [(user, of[0][0], len(of), of[0][2], of[-1][2]) for of in sessions]
    assert found == expected
    assert over > 0


def test_the_task_says_what_the_windows_took(airflow: AirflowStandalone, visits: list[Visit]) -> None:
    """Each run's log names merged and recomputed aggregates, and what was folded or waited for."""
    run = airflow.runs(DAGS[1])[0]["dag_run_id"]
    log = airflow.logs(DAGS[1], run, f"{DAGS[1]}.run")
    assert "computed again from the rows of every window that changed: median" in log
    assert "windows slow_pages:" in log
