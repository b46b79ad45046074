"""Evaluation of networks and artefacts: accuracy, agreement, noise and latency."""
