"""The sinks that there are, by the names that a profile's ``sinks:`` gives them."""

from __future__ import annotations

from device.core.registry import Registry

SINKS = Registry(
    "sink",
    {
        "telemetry": "device.sinks.telemetry:TelemetryStore",
        "predictions": "device.sinks.predictions:PredictionsFile",
        "prometheus": "device.sinks.prometheus:PrometheusSink",
        "mqtt": "device.sinks.mqtt:MqttSink",
        "webhook": "device.sinks.webhook:WebhookSink",
    },
    base="device.sinks.base:SinkPlugin",
)
