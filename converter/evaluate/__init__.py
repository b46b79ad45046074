"""Accuracy, agreement, noise and latency: what a network or an artefact is worth."""
