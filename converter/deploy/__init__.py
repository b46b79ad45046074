"""Deploys the daemon to boards: over SSH from the host, many at once, or to this machine.

Standard library alone, with those parts of `device` that need no more, so that a bare board can install itself from a checkout.
"""
