"""Runtimes, which run a network on the board. `registry` lists them, `base` is what their classes share."""
