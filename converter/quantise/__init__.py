"""Quantisation: recipes, activation ranges, and what prepares a network for eight bits."""
