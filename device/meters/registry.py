"""The power meters that there are: a profile's ``kind``, and the class."""

from __future__ import annotations

from device.core.registry import Registry

METERS = Registry(
    "meter",
    {
        "rapl": "device.meters.rapl:RaplMeter",
        "ina2xx": "device.meters.ina2xx:Ina2xxMeter",
        "ina219": "device.meters.ina_smbus:Ina219Meter",
        "ina226": "device.meters.ina_smbus:Ina226Meter",
        "ina228": "device.meters.ina_smbus:Ina228Meter",
        "ina260": "device.meters.ina_smbus:Ina260Meter",
        "ina3221": "device.meters.ina_smbus:Ina3221Meter",
        "battery": "device.meters.battery:BatteryMeter",
        "termux_battery": "device.meters.battery:TermuxBatteryMeter",
        "fnirsi": "device.meters.fnirsi:FnirsiMeter",
        "joulescope": "device.meters.joulescope:JoulescopeMeter",
        "shelly": "device.meters.plugs:ShellyMeter",
        "tasmota": "device.meters.plugs:TasmotaMeter",
        "estimate": "device.meters.estimate:EstimateMeter",
        "pmic": "device.meters.pmic:PmicMeter",
        "pmic_vcgencmd": "device.meters.pmic:VcgencmdPmicMeter",
        "pmic_corrected": "device.meters.pmic:CorrectedPmicMeter",
    },
    base="device.meters.meter:Meter",
)
