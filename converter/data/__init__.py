"""Photographs: labelled folders, and the sets that calibrate and verify a conversion."""
