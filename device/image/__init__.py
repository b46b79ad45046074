"""Pixels: decoding, cropping and scaling images, and turning a network's output into labels."""
