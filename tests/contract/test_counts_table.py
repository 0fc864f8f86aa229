"""A table of counts in PostgreSQL is read as one in any other database."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from airflow_provider_eventlog.core.completeness import table
from airflow_provider_eventlog.core.errors import CountsUnavailableError
from airflow_provider_eventlog.declare import CountsTable, ProducerCounts
from tests.support.postgres import Postgres
from tests.unit.completeness.world import MINUTE, T0, World


def test_counts_in_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    """Times with a zone and numerics are understood, older intervals stay where they are, a missing table is named."""
    url = postgres.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(
            'CREATE TABLE sent (producer TEXT, "start" TIMESTAMPTZ, "end" TIMESTAMPTZ, count BIGINT, checksum NUMERIC)'
        )
        for at, count in ((T0, 4), (T0 + 10 * MINUTE, 5)):
            values = (at / 1000, at / 1000 + 600, count)
            connection.execute("INSERT INTO sent VALUES ('a', to_timestamp(%s), to_timestamp(%s), %s, 12)", values)
    declared = CountsTable(url, "sent", checksum="checksum")
    rule = ProducerCounts(declared, every="10 minutes")
    with World(tmp_path).engine() as engine:
        assert table.read_table(engine, rule, declared, None).counts == {
            ("a", T0): (4, 12),
            ("a", T0 + 10 * MINUTE): (5, 12),
        }
        assert set(table.read_table(engine, rule, declared, T0 + 10 * MINUTE).counts) == {("a", T0 + 10 * MINUTE)}
        missing = CountsTable(url, "nothing")
        with pytest.raises(CountsUnavailableError, match="'nothing' cannot be read"):
            table.read_table(engine, ProducerCounts(missing), missing, None)
