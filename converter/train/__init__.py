"""Training: ``python -m converter.train``."""
