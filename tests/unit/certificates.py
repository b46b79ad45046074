"""Certificates for servers on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> Path:
    """Makes a certificate of 127.0.0.1 that is its own authority; skips where OpenSSL can't.

    Returns:
        The certificate; its key lies beside it, with the suffix ``.key``.
    """
    certificate = folder / "server.crt"
    arguments = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1"]
    arguments += ["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    arguments += ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    try:
        made = subprocess.run(["openssl", "req", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is missing: apt install openssl")
    if made.returncode:
        pytest.skip(f"openssl can't make a certificate: {made.stderr.decode()[-200:]}")
    return certificate
