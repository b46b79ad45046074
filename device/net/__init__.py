"""Addresses of devices on the network, HTTP requests, logins."""
