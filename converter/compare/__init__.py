"""``python -m converter.compare``: compares GhostNet with MobileNetV3, and checks the article's claims."""
