"""The runtimes that there are."""

from __future__ import annotations

from device.core.registry import Entry, Registry

RUNTIMES = Registry(
    "runtime",
    {
        "litert": Entry("device.runtimes.litert:LiteRtRuntime", "pip install 'ghostwatt[litert]'"),
        "executorch": Entry("device.runtimes.executorch:ExecuTorchRuntime", "build the native library: make native"),
    },
)
