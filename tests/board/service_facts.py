"""What every test of the service on the booted board knows of it."""

from __future__ import annotations

PROFILE = "rpi4"
UNIT = f"ghostwatt@{PROFILE}.service"
STATE = "/var/lib/ghostwatt"
WATTS = 2.5
"""Played into the board's sensor."""
HIGHEST_EXPOSURE = 1.5
"""Of ``systemd-analyze security``."""
