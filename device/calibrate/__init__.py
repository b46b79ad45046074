"""``python -m device.calibrate``: fits the board's own power model to the readings of a meter."""
