"""Lazy tables of implementations: name -> ``module:Class``, and what to install where the import fails.

Nothing is imported until it is asked for by name. Packages from outside add to a table by an entry point in the group
``ghostwatt.<table>`` (``ghostwatt.sources``, ``ghostwatt.runtimes``, ``ghostwatt.meters``, ``ghostwatt.sinks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from device.core.errors import MissingDependencyError, UsageError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Entry(NamedTuple):
    """Where an implementation is, and what to do when its import fails.

    Attributes:
        target: ``module:Class``.
        install_hint: what to do when the import fails.
        needs: keys that a profile must give it.
        takes: keys that a profile may give it.
    """

    target: str
    install_hint: str = ""
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


class Registry:
    """One table.

    Args:
        kind: what the table holds, in the singular ("runtime"), for messages and for the entry points' group.
        entries: name -> entry.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def own_names(self) -> tuple[str, ...]:
        """Names of our own; looks at nothing that is installed."""
        return tuple(sorted(self._entries))

    def names(self) -> tuple[str, ...]:
        """Every name that `load` takes, ours and outsiders'."""
        return tuple(sorted({point.name for point in self._outsiders()} | set(self._entries)))

    def find_entry(self, name: str) -> Entry | None:
        """What is known of an implementation without importing it; None for an outsider's, and for a name that isn't there."""
        return self._entries.get(name)

    def load(self, name: str) -> Any:
        """Imports an implementation.

        Raises:
            UsageError: no such name; says which there are.
            MissingDependencyError: it needs a package that isn't installed; says which.
        """
        if name in self._entries:
            return self._load_own(name)
        for point in self._outsiders():
            if point.name == name:
                return point.load()
        raise UsageError(
            self.kind, f"{name!r} is not known", expected=nearest(name, self.names()), reason=f"unknown_{self.kind}"
        )

    def _outsiders(self) -> Iterable[EntryPoint]:
        # Imported here: it costs 4 MB, and a board that runs our own has no use for it.
        from importlib.metadata import entry_points

        return entry_points(group=f"ghostwatt.{self.kind}s")

    def _load_own(self, name: str) -> Any:
        entry = self._entries[name]
        module_name, _, attribute = entry.target.partition(":")
        try:
            return getattr(import_module(module_name), attribute)
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.kind} {name}",
                f"can't be imported ({error})",
                remedy=entry.install_hint,
                reason="not_installed",
            ) from error


_PICAMERA2 = "apt install python3-picamera2, and make the venv with --system-site-packages"
_OPENCV = "install OpenCV: pip install 'ghostwatt[video]', or apt install python3-opencv"

SOURCES = Registry(
    "source",
    {
        "images": Entry("device.sources.images:ImagesSource", _OPENCV),
        "video": Entry("device.sources.video:VideoSource", _OPENCV),
        "synthetic": Entry("device.sources.synthetic:SyntheticSource"),
        "v4l2": Entry("device.sources.v4l2.source:V4l2Source", _OPENCV),
        "picamera2": Entry("device.sources.picamera2:Picamera2Source", _PICAMERA2),
        "rtsp": Entry("device.sources.stream.rtsp:RtspSource", _OPENCV),
        "rtsps": Entry("device.sources.stream.rtsp:RtspsSource", _OPENCV),
        "http": Entry("device.sources.stream.mjpeg:MjpegSource", _OPENCV),
        "https": Entry("device.sources.stream.mjpeg:MjpegsSource", _OPENCV),
    },
)

RUNTIMES = Registry(
    "runtime",
    {
        "litert": Entry("device.runtimes.litert:LiteRtRuntime", "pip install 'ghostwatt[litert]'"),
        "executorch": Entry("device.runtimes.executorch:ExecuTorchRuntime", "build the native library: make native"),
    },
)

_SMBUS = "pip install 'ghostwatt[i2c]'"
_USB_METER = "pip install 'ghostwatt[fnirsi]', with Python 3.12 or later"
_CHIP_KEYS = ("scope", "address", "bus")

METERS = Registry(
    "meter",
    {
        "rapl": Entry("device.meters.rapl:RaplMeter"),
        "ina2xx": Entry("device.meters.ina2xx:Ina2xxMeter", needs=("shunt_ohm",), takes=_CHIP_KEYS),
        "ina219": Entry("device.meters.ina_smbus:Ina219Meter", _SMBUS, ("shunt_ohm",), _CHIP_KEYS),
        "ina226": Entry("device.meters.ina_smbus:Ina226Meter", _SMBUS, ("shunt_ohm",), _CHIP_KEYS),
        "ina228": Entry("device.meters.ina_smbus:Ina228Meter", _SMBUS, ("shunt_ohm",), _CHIP_KEYS),
        "ina260": Entry("device.meters.ina_smbus:Ina260Meter", _SMBUS, (), _CHIP_KEYS),
        "ina3221": Entry("device.meters.ina_smbus:Ina3221Meter", _SMBUS, ("shunt_ohm", "channel"), _CHIP_KEYS),
        "battery": Entry("device.meters.battery:BatteryMeter", takes=("address", "current_unit")),
        "termux_battery": Entry("device.meters.battery:TermuxBatteryMeter", takes=("current_unit",)),
        "fnirsi": Entry("device.meters.fnirsi:FnirsiMeter", _USB_METER, takes=("scope", "address")),
        "shelly": Entry("device.meters.plugs:ShellyMeter", needs=("address",), takes=("channel",)),
        "tasmota": Entry("device.meters.plugs:TasmotaMeter", needs=("address",), takes=("channel",)),
        "estimate": Entry("device.meters.estimate:EstimateMeter"),
        "pmic": Entry("device.meters.pmic:PmicMeter"),
        "pmic_vcgencmd": Entry("device.meters.pmic:VcgencmdPmicMeter"),
        "pmic_corrected": Entry("device.meters.pmic:CorrectedPmicMeter"),
    },
)

SINKS = Registry(
    "sink",
    {
        "prometheus": Entry("device.sinks.prometheus:PrometheusSink", "pip install 'ghostwatt[prometheus]'"),
        "mqtt": Entry("device.sinks.mqtt:MqttSink", "pip install 'ghostwatt[mqtt]'"),
    },
)
"""What needs a package of its own; the others are named by their files, see `device.daemon.outlets`."""
