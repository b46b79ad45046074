"""Pixels: decoding, cropping, scaling, and from a network's output to labels."""
