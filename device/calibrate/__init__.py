"""``python -m device.calibrate``: measures the board's own power model, with a meter that is fitted for it."""
