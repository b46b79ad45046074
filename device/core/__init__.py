"""The ground: errors, time, durable files, flags and programs. The standard library and msgspec alone."""
