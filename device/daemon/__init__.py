"""The daemon: the loop, the stream of its events, and those who listen inside the process."""
