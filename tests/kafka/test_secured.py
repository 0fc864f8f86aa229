"""A broker that asks for passwords and rights: refusals are quick, named, and retried only where that can help."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import now_ms, open_engine
from airflow_provider_eventlog.core.errors import (
    EventLogError,
    SourceAuthenticationError,
    SourceAuthorizationError,
    TopicNotFoundError,
)
from airflow_provider_eventlog.core.forecast import forecast
from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from airflow_provider_eventlog.devkafka import cluster

DEADLINE_S = 20.0
JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'user_admin="admin-pw" user_reader="reader-pw" user_nobody="nobody-pw";'
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Secured:
    def __init__(self, inner: str, outer: str) -> None:
        self.inner: dict[str, Any] = {"bootstrap.servers": inner}
        self.outer = outer

    def settings(self, user: str, password: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.outer,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": password,
        }

    def source(self, user: str, password: str, topic: str = "ours") -> KafkaSource:
        return KafkaSource(topic, self.settings(user, password), deadline_s=DEADLINE_S)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One broker with an open listener for the tests' own set-up, and a SASL one with ACLs for everybody else."""
    inner, controller, outer = free_ports(3)
    properties = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{inner},SASL://127.0.0.1:{outer}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{inner},SASL://127.0.0.1:{outer}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": JAAS,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "allow.everyone.if.no.acl.found": "false",
        "connection.failed.authentication.delay.ms": "100",
    }
    folder: Path = tmp_path_factory.mktemp("secured")
    with cluster.start(1, data_dir=folder, port=inner, properties=properties):
        made = Secured(f"127.0.0.1:{inner}", f"127.0.0.1:{outer}")
        admin = AdminClient(made.inner)
        TopicAdmin(made.inner).create("ours")
        produce("ours", [Record(b"v") for _ in range(5)], made.inner)
        rights = [
            AclBinding(
                ResourceType.TOPIC,
                "ours",
                ResourcePatternType.LITERAL,
                "User:reader",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for operation in (AclOperation.READ, AclOperation.DESCRIBE)
        ]
        for future in admin.create_acls(rights).values():
            future.result()
        yield made


def rows(source: KafkaSource) -> int:
    return sum(batch.num_rows for batch in source.read(OffsetRange(0, 0, 5)))


def test_read_and_describe_on_the_topic_are_enough(secured: Secured) -> None:
    """A user with READ and DESCRIBE on the topic, and no right to any group, plans and reads."""
    source = secured.source("reader", "reader-pw")
    assert source.describe().partitions == 1
    assert source.log_ends() == {0: 5}
    assert rows(source) == 5


@pytest.mark.parametrize("call", [KafkaSource.describe, KafkaSource.log_ends, rows])
@pytest.mark.parametrize(("user", "password"), [("reader", "wrong"), ("stranger", "reader-pw")])
def test_wrong_credentials_fail_at_once(secured: Secured, call: Any, user: str, password: str) -> None:
    """A wrong password or user is a failure that is not retried, long before any deadline, and tells no secret."""
    began = time.monotonic()
    with pytest.raises(SourceAuthenticationError) as caught:
        call(secured.source(user, password))
    assert time.monotonic() - began < DEADLINE_S / 2
    assert not caught.value.retriable
    assert password not in str(caught.value)


@pytest.mark.parametrize("call", [KafkaSource.describe, KafkaSource.log_ends, rows])
def test_a_missing_right_is_named(secured: Secured, call: Any) -> None:
    """A user without rights on the topic is told so at once; it never becomes an endless wait."""
    began = time.monotonic()
    with pytest.raises((SourceAuthorizationError, TopicNotFoundError)) as caught:
        call(secured.source("nobody", "nobody-pw"))
    assert time.monotonic() - began < DEADLINE_S / 2
    assert not caught.value.retriable


def test_producing_without_a_right_fails(secured: Secured) -> None:
    """A record that may not be written is a failure of its own, not a silent loss."""
    with pytest.raises(EventLogError) as caught:
        produce("ours", [Record(b"v")], secured.settings("reader", "reader-pw"), deadline_s=DEADLINE_S)
    assert not caught.value.retriable


def test_a_forecast_without_the_right_says_so(secured: Secured, tmp_path: Path) -> None:
    """DESCRIBE_CONFIGS is needed for the retention alone: without it a user plans and is told so."""
    admin = secured.source("admin", "admin-pw").retention()
    assert (admin.cleanup, admin.ms, admin.bytes, admin.timestamps) == (("delete",), None, None, "CreateTime")
    with pytest.raises(SourceAuthorizationError):
        secured.source("reader", "reader-pw").retention()
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    pipeline = Pipeline("p", stream=Stream("ours", start="earliest", decode=Raw()), outputs=outputs)
    settings = secured.settings("reader", "reader-pw")
    with open_engine(pipeline.stream, client=settings, home=tmp_path) as engine:
        stages.plan(engine, pipeline, RunRequest("since_last"), "r")
        found = forecast(engine.ledger, engine.source(pipeline.stream), "ours", now_ms())
    assert (found.text, found.unlanded, found.warning) == ("unknown: DESCRIBE_CONFIGS is denied", 5, None)
