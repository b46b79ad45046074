"""The daemon: the loop, its records, and whom it tells."""
