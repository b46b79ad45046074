"""The telemetry file: its tables, how it stays small, and how it is read."""
