"""Quantisation: recipes, activation ranges, and the preparation of a network for int8."""
