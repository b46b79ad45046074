"""The board's side: opens a bundle, reads frames, runs the network, logs speed and power. Needs no torch."""

__version__ = "0.1.0"
