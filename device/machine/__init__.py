"""The board itself: its identity, sysfs, processor, temperature, memory and load."""
