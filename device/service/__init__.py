"""The daemon as a service of systemd: what it tells systemd, the unit that runs it, and how a board gets both."""
