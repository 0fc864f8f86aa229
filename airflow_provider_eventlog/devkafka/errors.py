"""What the embedded Kafka raises on purpose."""

from __future__ import annotations

from airflow_provider_eventlog.core.errors import EventLogError

INSTALL_HINT = "Install the embedded Kafka with: pip install 'airflow-provider-eventlog[kafka]'"


class DevKafkaError(EventLogError):
    """The embedded Kafka cannot be had, does not start or does not answer; nothing that was started is left behind."""


class PortTakenError(DevKafkaError):
    """A broker died because another process listens on its port."""
