"""Secrets stay secret, foreign text stays contained."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import airflow_provider_eventlog
from airflow_provider_eventlog.core.errors import ConnectionConfigError, EventLogError
from airflow_provider_eventlog.core.kafka.config import ALLOWED, FIXED, SECRET, client_settings, secret_values
from airflow_provider_eventlog.core.kafka.source import KafkaSource

CANARY = "canary-7f3a9"
SECURED = {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
PACKAGE = Path(airflow_provider_eventlog.__file__).parent


@pytest.mark.parametrize(
    "key", ["plugin.library.paths", "ssl.engine.location", "sasl.kerberos.kinit.cmd", "debug", "x y"]
)
def test_no_setting_runs_code(key: str) -> None:
    """A connection cannot name a library or a command: the key is refused, its value not repeated."""
    with pytest.raises(ConnectionConfigError) as caught:
        client_settings({"bootstrap.servers": "x", key: CANARY})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("key", sorted(FIXED))
def test_what_exact_reading_needs_cannot_be_overridden(key: str) -> None:
    """The reader's fixed settings may be repeated, never changed."""
    with pytest.raises(ConnectionConfigError, match=key):
        client_settings({"bootstrap.servers": "x", key: "other"})
    assert key not in client_settings({"bootstrap.servers": "x", key: FIXED[key]})


def test_every_secret_setting_is_registered() -> None:
    """All settings whose name says that they hold a secret are given to the masker."""
    telling = {k for k in ALLOWED if k.endswith((".password", ".secret", "key.pem", "oauthbearer.config"))}
    assert telling == SECRET
    assert set(secret_values(dict.fromkeys(sorted(ALLOWED), CANARY))) == {CANARY}


def test_secret_in_no_failure() -> None:
    """What a source raises, and its representation, hold no secret value."""
    source = KafkaSource("t", {**SECURED, "sasl.username": "u", "sasl.password": CANARY}, deadline_s=0.5)
    with pytest.raises(EventLogError) as caught:
        source.describe()
    assert CANARY not in f"{caught.value!r} {caught.value} {source!r}"


def test_contained_names_in_sql() -> None:
    """Text is built into SQL only in modules that quote identifiers: everywhere else values are bound."""
    building = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if (
                node.func.attr in ("execute", "executemany", "sql")
                and node.args
                and isinstance(node.args[0], ast.JoinedStr)
            ):
                building.add(file.relative_to(PACKAGE).as_posix())
    assert building
    # Windows have one module for the names in their SQL, which quotes them.
    quoting = ("naming import", "windows.frames import")
    for name in building:
        assert any(words in (PACKAGE / name).read_text() for words in quoting), name
    assert "naming import" in (PACKAGE / "core/windows/frames.py").read_text()
