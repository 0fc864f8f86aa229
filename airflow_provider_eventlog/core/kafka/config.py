"""Client settings: what a connection may say, and what reading fixes.

Settings are checked by exact key. A connection's editor must not be able to run code on a worker
(`plugin.library.paths`, `ssl.engine.location`, `sasl.kerberos.kinit.cmd`) nor to weaken how offsets are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_eventlog.core.errors import ConnectionConfigError
from airflow_provider_eventlog.core.naming import printable

ALLOWED = frozenset({
    "bootstrap.servers", "client.id", "client.rack", "client.dns.lookup", "security.protocol",
    "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password",
    "sasl.oauthbearer.method", "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.scope", "sasl.oauthbearer.extensions", "sasl.oauthbearer.token.endpoint.url",
    "sasl.oauthbearer.config",
    "sasl.kerberos.service.name", "sasl.kerberos.principal", "sasl.kerberos.keytab",
    "ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem",
    "ssl.key.location", "ssl.key.password", "ssl.key.pem", "ssl.keystore.location", "ssl.keystore.password",
    "ssl.crl.location", "ssl.cipher.suites", "ssl.curves.list", "ssl.sigalgs.list",
    "ssl.endpoint.identification.algorithm", "enable.ssl.certificate.verification",
    "broker.address.family", "broker.address.ttl", "connections.max.idle.ms",
    "reconnect.backoff.ms", "reconnect.backoff.max.ms", "retry.backoff.ms", "retry.backoff.max.ms",
    "socket.timeout.ms", "socket.connection.setup.timeout.ms", "socket.keepalive.enable",
    "socket.nagle.disable", "socket.send.buffer.bytes", "socket.receive.buffer.bytes",
    "message.max.bytes", "receive.message.max.bytes", "metadata.max.age.ms",
    "topic.metadata.refresh.interval.ms", "compression.type", "linger.ms",
})  # fmt: skip
# What a reader needs to be right; the values are not a matter of taste.
FIXED: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "check.crcs": True,
    "allow.auto.create.topics": False,
}
SECRET = frozenset({
    "sasl.password", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "ssl.key.password", "ssl.key.pem",
    "ssl.keystore.password",
})  # fmt: skip
# Settings of the official provider's connections that have no effect here, since no group is read or committed.
_IGNORED = frozenset({"group.id"})


def client_settings(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The allowed settings of a connection's extra, ready for any client.

    `group.id` is left out: ranges are assigned, never subscribed. The reader's fixed settings may stand in the
    connection if they say the same. Raises ConnectionConfigError naming the first key that is not allowed, or the
    missing `bootstrap.servers`; values never appear in the message.
    """
    settings: dict[str, Any] = {}
    for key, value in extra.items():
        if key in _IGNORED:
            continue
        if key in FIXED:
            if str(value).lower() != str(FIXED[key]).lower():
                raise ConnectionConfigError(
                    f"The Kafka setting {key!r} is fixed to {FIXED[key]!r} for exact reading; remove it from the "
                    f"connection."
                )
            continue
        if key not in ALLOWED:
            raise ConnectionConfigError(
                f"The Kafka setting {printable(key, 80)} is not on this package's list of client settings; remove it "
                f"from the connection's extra (docs/reference.md has the list)."
            )
        if not isinstance(value, (str, int, float, bool)):
            raise ConnectionConfigError(f"The Kafka setting {key!r} must be a text or a number.")
        settings[key] = value
    if not str(settings.get("bootstrap.servers", "")).strip():
        raise ConnectionConfigError("The Kafka connection lacks 'bootstrap.servers' in its extra.")
    return settings


def secret_values(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that must never be shown, for registration with a log masker."""
    return tuple(str(value) for key, value in settings.items() if key in SECRET and str(value))
