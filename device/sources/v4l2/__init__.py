"""USB cameras, and everything else that has a ``/dev/video*`` node."""
