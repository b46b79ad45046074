"""The sinks that there are."""

from __future__ import annotations

from device.core.registry import Entry, Registry

SINKS = Registry(
    "sink",
    {
        "prometheus": Entry("device.sinks.prometheus:PrometheusSink", "pip install 'ghostwatt[prometheus]'"),
        "mqtt": Entry("device.sinks.mqtt:MqttSink", "pip install 'ghostwatt[mqtt]'"),
    },
)
"""What needs a package of its own; the others are named by their files, see `device.daemon.outlets`."""
