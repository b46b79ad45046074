"""The power meters that there are: a profile's ``kind``, and the class."""

from __future__ import annotations

from device.core.registry import Entry, Registry

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
