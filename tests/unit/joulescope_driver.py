"""A Joulescope JS220 behind a stand-in for its driver, ``pyjoulescope_driver``: the topics that we use."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

FREQUENCY_HZ = 1_000_000
Callback = Callable[[str, Any], None]


class FakeInstrument:
    """Instruments that are plugged in.

    Args:
        path: a folder that stands for the cable: while it is away nothing is plugged in. None: always plugged in.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.paths = ["u/js220/000415"]
        self.published: dict[str, Any] = {}
        self.subscribers: dict[str, Callback] = {}
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.energy_j = 7.0
        self.end = 3_000_000

    @property
    def there(self) -> list[str]:
        return self.paths if self.path is None or self.path.exists() else []

    def statistics(self) -> dict[str, Any]:
        """One message, as ``jsdrv`` makes it; what nobody here reads is left out."""
        return {
            "time": {
                "samples": {"value": [self.end - 50_000, self.end], "units": "samples"},
                "sample_freq": {"value": FREQUENCY_HZ, "units": "Hz"},
            },
            "accumulators": {"energy": {"value": self.energy_j, "int_value": 0, "units": "J"}},
        }

    def send(self, power_w: float, duration_s: float) -> None:
        """Draws power for a while, and tells the counters to whoever subscribed."""
        self.energy_j += power_w * duration_s
        self.end += round(duration_s * FREQUENCY_HZ)
        self.tell(self.statistics())

    def tell(self, value: Any) -> None:
        for path in self.there:
            if callback := self.subscribers.get(f"{path}/s/stats/value"):
                callback(f"{path}/s/stats/value", value)

    def library(self) -> types.ModuleType:
        """The module that finds what is plugged in here."""
        bench = self

        class Driver:
            def device_paths(self, timeout: float | None = None) -> list[str]:
                return list(bench.there)

            def open(self, device_prefix: str, mode: str | None = None, timeout: float | None = None) -> None:
                if bench.refusal:
                    raise bench.refusal
                bench.calls.append(f"open {device_prefix}")

            def close(self, device_prefix: str, timeout: float | None = None) -> None:
                bench.calls.append(f"close {device_prefix}")
                if device_prefix not in bench.there:
                    raise RuntimeError("jsdrv_close failed: NOT_FOUND")

            def publish(self, topic: str, value: Any, timeout: float | None = None) -> None:
                bench.published[topic] = value

            def subscribe(self, topic: str, flags: str, fn: Callback, timeout: float | None = None) -> None:
                bench.subscribers[topic] = fn
                bench.tell(bench.statistics())

            def unsubscribe(self, topic: str, fn: Callback, timeout: float | None = None) -> None:
                # The driver knows a callback by its identity.
                if bench.subscribers.get(topic) is not fn:
                    raise RuntimeError("jsdrv_unsubscribe failed: NOT_FOUND")
                del bench.subscribers[topic]

            def finalize(self, timeout: float | None = None) -> None:
                bench.calls.append("finalize")
                bench.subscribers.clear()

        module: Any = types.ModuleType("pyjoulescope_driver")
        module.Driver = Driver
        return module  # type: ignore[no-any-return]
