"""The board itself: what it is, its sysfs, processor, heat, memory and load."""
