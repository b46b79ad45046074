"""Cameras on the network: RTSP, and JPEGs over HTTP."""
