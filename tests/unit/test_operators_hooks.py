"""The hook's checks and what Airflow's configuration says, without Kafka."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection
from sqlalchemy import make_url

from airflow_provider_eventlog.core.errors import (
    ConnectionConfigError,
    LedgerConfigError,
    OffsetRangeError,
    RequestError,
)
from airflow_provider_eventlog.core.kafka import producer, source
from airflow_provider_eventlog.hooks import config
from airflow_provider_eventlog.hooks import eventlog as module
from airflow_provider_eventlog.hooks.eventlog import EventLogHook
from tests.support.simlog import SimSource

SERVERS = {"bootstrap.servers": "127.0.0.1:1"}


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The values that were given to Airflow's masker."""
    found: list[str] = []
    monkeypatch.setattr(module, "mask_secret", found.append)
    return found


def connect(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> EventLogHook:
    made = Connection(conn_id="k", conn_type="kafka", extra=json.dumps(extra))
    monkeypatch.setattr(EventLogHook, "get_connection", lambda self, conn_id: made)
    return EventLogHook("k")


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, masked: list[str]) -> None:
    """Every secret of the connection is registered, those that Airflow would not find by their name included."""
    secrets = {"sasl.password": "s-one", "ssl.key.pem": "s-two", "sasl.oauthbearer.client.secret": "s-three"}
    settings = connect(monkeypatch, {**SERVERS, **secrets, "group.id": "g"}).client_settings()
    assert settings == {**SERVERS, **secrets}
    assert sorted(masked) == sorted(secrets.values())


def test_an_unlisted_setting_is_refused_and_its_secrets_still_masked(
    monkeypatch: pytest.MonkeyPatch, masked: list[str]
) -> None:
    """A connection's editor cannot load code on a worker, and the error names the key, never a value."""
    extra = {**SERVERS, "sasl.password": "s-one", "plugin.library.paths": "/tmp/evil.so"}
    with pytest.raises(ConnectionConfigError, match=r"plugin\.library\.paths") as raised:
        connect(monkeypatch, extra).client_settings()
    assert "evil" not in str(raised.value)
    assert masked == ["s-one"]


@pytest.mark.parametrize(
    ("ranges", "most", "error"),
    [
        ("0:0-4", 100, OffsetRangeError),
        ("5:0-1", 100, OffsetRangeError),
        ("0:0-3", 2, RequestError),
        ("0:3", 100, RequestError),
        (None, 3, RequestError),
    ],
)
def test_reading_is_bounded(
    monkeypatch: pytest.MonkeyPatch, ranges: str | None, most: int, error: type[Exception]
) -> None:
    """Offsets that the topic does not have, or more than fit, are refused before anything is read."""
    hook, sim = connect(monkeypatch, SERVERS), SimSource({0: [1, 2, 3], 1: [1]})
    monkeypatch.setattr(source, "KafkaSource", lambda *given, **more: sim)
    with pytest.raises(error):
        hook.read("t", ranges, max_offsets=most)


def test_produce_takes_text_bytes_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare values become records without a key, in order."""
    sent: list[Any] = []

    def produce(topic: str, records: Any, settings: Any, **more: Any) -> producer.Sent:
        sent.append((topic, list(records), dict(settings), more["mode"]))
        return producer.Sent(3)

    monkeypatch.setattr(producer, "produce", produce)
    record = producer.Record(b"c", b"k")
    assert connect(monkeypatch, SERVERS).produce("t", ["ä", b"b", record], mode="async").sent == 3
    assert sent == [("t", [producer.Record("ä".encode()), producer.Record(b"b"), record], SERVERS, "async")]


def test_testing_a_connection_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's connection form gets an answer, not a traceback."""
    assert connect(monkeypatch, {"nonsense": 1}).test_connection()[0] is False


def options(monkeypatch: pytest.MonkeyPatch, **given: str) -> None:
    def get(section: str, key: str, fallback: str = "") -> str:
        assert section == "eventlog"
        return given.get(key, fallback)

    monkeypatch.setattr(config, "conf", SimpleNamespace(get=get))


def test_configuration_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty options mean the defaults below AIRFLOW_HOME."""
    options(monkeypatch, staging_root="", ledger_conn_id="")
    assert (config.staging_root(), config.ledger_url()) == (None, None)
    options(monkeypatch, staging_root="/srv/staging")
    assert config.staging_root() == "/srv/staging"


@pytest.mark.parametrize(
    ("uri", "path"),
    [("sqlite:////srv/ledger.sqlite", "/srv/ledger.sqlite"), ("sqlite://%2Fsrv%2Fl.sqlite", "/srv/l.sqlite")],
)
def test_a_ledger_connection_names_a_file(monkeypatch: pytest.MonkeyPatch, uri: str, path: str) -> None:
    """A connection of type sqlite gives the ledger's path, in either way that Airflow stores it."""
    options(monkeypatch, ledger_conn_id="ledger")
    monkeypatch.setattr(config.BaseHook, "get_connection", lambda conn_id: Connection.from_uri(uri, conn_id=conn_id))
    assert config.ledger_url() == path


def test_a_ledger_connection_of_postgres_becomes_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field survives its way into the URL, and every spelling of a secret is given to the masker."""
    secret, found = "p@ss/w:rd %+é", list[str]()
    fields = {"host": "db.example", "port": 5433, "login": "me@x", "password": secret, "schema": "event log"}
    extra = {"sslmode": "verify-full", "sslpassword": "s 2", "options": "-csearch_path=x", "connect_timeout": 5}
    made = Connection(conn_id="ledger", conn_type="postgres", extra=json.dumps(extra), **fields)
    options(monkeypatch, ledger_conn_id="ledger")
    monkeypatch.setattr(config.BaseHook, "get_connection", lambda conn_id: made)
    monkeypatch.setattr(config, "mask_secret", found.append)
    text = config.ledger_url()
    assert text is not None
    url = make_url(text)
    assert (url.drivername, url.host, url.port, url.username) == ("postgresql", "db.example", 5433, "me@x")
    assert (url.password, url.database) == (secret, "event log")
    assert dict(url.query) == {key: str(value) for key, value in extra.items()}
    assert {secret, "s 2", "s+2"} <= set(found)
    assert any(f":{spelt}@" in text for spelt in found)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mysql://u:canary@h/db", "type 'mysql'.*SQLite or PostgreSQL"),
        ("sqlite://", "without the path"),
        ("postgres://u:canary@h", "no database"),
        ("postgres://u:canary@h/db?iam=true&service=canary", "'iam', 'service'.*sslmode"),
    ],
)
def test_another_ledger_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str, words: str) -> None:
    """A connection that gives no ledger is refused with what to do, and without what it holds."""
    options(monkeypatch, ledger_conn_id="ledger")
    monkeypatch.setattr(config.BaseHook, "get_connection", lambda conn_id: Connection.from_uri(uri, conn_id=conn_id))
    with pytest.raises(LedgerConfigError, match=words) as caught:
        config.ledger_url()
    assert "canary" not in str(caught.value)


def test_looking_for_a_ledger_makes_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What only looks leaves no file behind, and finds an empty ledger."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    options(monkeypatch)
    ledger = config.open_read_ledger()
    assert ledger.epochs("t") == ()
    ledger.close()
    assert list(tmp_path.rglob("*")) == []
