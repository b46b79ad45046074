"""Weights: checkpoints that ship with the project, published ones, and fresh ones."""
