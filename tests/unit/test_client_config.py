"""The allowlist of client settings: what a connection may say, and that it says no more in messages."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import ConnectionConfigError
from airflow_provider_eventlog.core.kafka.config import ALLOWED, FIXED, SECRET, client_settings, secret_values

SERVERS = {"bootstrap.servers": "broker:9092"}
# Settings by which whoever edits a connection would run code, read files or redirect credentials on a worker.
WEAPONS = [
    "plugin.library.paths",
    "ssl.engine.location",
    "ssl.engine.id",
    "ssl.providers",
    "sasl.kerberos.kinit.cmd",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "oauth_cb",
    "error_cb",
    "stats_cb",
    "debug",
    "opaque",
    "interceptor.classes",
]


@pytest.mark.parametrize("key", [*WEAPONS, "plugin.library.paths ", "BOOTSTRAP.SERVERS", "no.such.setting", ""])
def test_what_is_not_listed_is_refused_by_name(key: str) -> None:
    """A setting that is not on the list fails before a client is made, named by key and never by value."""
    assert key not in ALLOWED
    with pytest.raises(ConnectionConfigError) as caught:
        client_settings({**SERVERS, key: "s3cret-value"})
    assert repr(key) in str(caught.value)
    assert "s3cret-value" not in str(caught.value)
    assert not caught.value.retriable


@pytest.mark.parametrize("key", sorted(FIXED))
def test_reading_exactly_cannot_be_switched_off(key: str) -> None:
    """The reader's fixed settings may be repeated and not changed, and reach a client from nowhere else."""
    assert client_settings({**SERVERS, key: str(FIXED[key]).lower()}) == SERVERS
    with pytest.raises(ConnectionConfigError, match="fixed"):
        client_settings({**SERVERS, key: "other"})


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, len, b"x"])
def test_values_are_plain(value: Any) -> None:
    """Only texts, numbers and booleans are settings; a callable or a structure is refused, unshown."""
    with pytest.raises(ConnectionConfigError, match=r"ssl\.ca\.pem"):
        client_settings({**SERVERS, "ssl.ca.pem": value})


@pytest.mark.parametrize("extra", [{}, {"bootstrap.servers": " "}, {"group.id": "g"}])
def test_a_connection_names_its_brokers(extra: dict[str, Any]) -> None:
    """Without bootstrap servers the error says so, instead of a client that waits."""
    with pytest.raises(ConnectionConfigError, match=r"bootstrap\.servers"):
        client_settings(extra)


def test_a_group_in_the_connection_has_no_effect() -> None:
    """The official provider's connections carry a group; ranges are assigned, so it is left out."""
    assert client_settings({**SERVERS, "group.id": "g"}) == SERVERS


def test_every_secret_is_told_to_the_masker() -> None:
    """Each setting that can hold a secret is allowed, and its value is among those to be masked; empty ones are not."""
    assert SECRET < ALLOWED
    assert all(key in SECRET for key in ALLOWED if any(w in key for w in ("password", "secret", "key.pem")))
    settings = client_settings({**SERVERS, **{key: f"value of {key}" for key in SECRET}})
    assert sorted(secret_values(settings)) == sorted(f"value of {key}" for key in SECRET)
    assert secret_values({**SERVERS, "sasl.password": ""}) == ()


def test_every_allowed_setting_is_known_to_the_client() -> None:
    """The list names settings that exist: a client takes each key (and may object to the value alone)."""
    from confluent_kafka import KafkaException, Producer

    said: dict[str, str] = {}
    for key in [*sorted(ALLOWED), "no.such.setting"]:
        try:
            Producer({key: "\0"})
        except (KafkaException, ValueError, TypeError) as error:
            said[key] = str(error)
    unknown = [key for key, text in said.items() if "No such configuration property" in text]
    assert unknown == ["no.such.setting"]
