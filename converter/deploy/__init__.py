"""Brings the daemon to boards: over SSH from the host, many at once, or onto the machine at hand.

Standard library and `device`'s own parts of it alone, so that a bare board can install itself from a checkout.
"""
