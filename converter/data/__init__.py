"""Photographs: labelled folders, and those that calibrate and verify a conversion."""
