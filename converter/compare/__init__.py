"""``python -m converter.compare``: GhostNet beside MobileNetV3, and what of the article's claims holds."""
