"""The daemon as a service of systemd: the unit that runs it, and how a board gets the software and the unit."""
