"""Weights: checkpoints that ship with the project, and published ones."""
