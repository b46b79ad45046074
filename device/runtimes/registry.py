"""The runtimes that there are: the name in profiles and after ``--runtime``, and the class."""

from __future__ import annotations

from device.core.registry import Registry

RUNTIMES = Registry(
    "runtime",
    {
        "litert": "device.runtimes.litert:LiteRtRuntime",
        "executorch": "device.runtimes.executorch:ExecuTorchRuntime",
    },
    base="device.runtimes.base:BaseRuntime",
)
