"""The network: addresses of devices, HTTP requests, and logins."""
