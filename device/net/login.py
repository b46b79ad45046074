"""Logins with user and password, for HTTP and RTSP.

Python's own HTTP client supports neither SHA-256 nor ``algorithm=md5`` in lower case, as libmicrohttpd writes it.

References:
    RFC 7617 (2015): Basic. RFC 7616 (2015) and RFC 2617 (1999), section 3.2: Digest; the latter without ``qop``, as in RTSP.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z]+)(?=\s+\w+\s*=|\s*$)")
_ITEM = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')

_COUNT = "00000001"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("latin-1"), usedforsecurity=False).hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("latin-1")).hexdigest()


# Strongest first.
_HASHES: dict[str, Callable[[str], str]] = {"SHA-256": _sha256, "MD5": _md5}


class Challenge(NamedTuple):
    """A kind of login that a server accepts.

    Attributes:
        scheme: in lower case (``basic``, ``digest``).
        items: its parameters; names in lower case.
    """

    scheme: str
    items: dict[str, str]

    @property
    def algorithm(self) -> str:
        """Digest's algorithm, in upper case."""
        return self.items.get("algorithm", "MD5").upper()


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Parses ``WWW-Authenticate`` headers, each of which may contain several challenges.

    Args:
        headers: decoded as Latin-1, like HTTP headers.
    """
    challenges = []
    for header in headers:
        starts = [*_SCHEME.finditer(header)]
        ends = [*(start.start() for start in starts[1:]), len(header)]
        for start, end in zip(starts, ends, strict=False):
            items = {
                name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
                for name, quoted, bare in _ITEM.findall(header, start.end(), end)
            }
            challenges.append(Challenge(start[1].lower(), items))
    return challenges


def make_login(
    challenges: Iterable[Challenge],
    user: str,
    password: str,
    *,
    method: str,
    uri: str,
    new_nonce: Callable[[], str] = lambda: secrets.token_hex(8),
) -> str | None:
    """Answers the strongest challenge: Digest with SHA-256, Digest with MD5, or Basic.

    Args:
        challenges: the server's challenges.
        user: name of the user.
        password: the user's password.
        method: method of the request that will be repeated.
        uri: URI in the first line of that request.
        new_nonce: returns a number to be used once.

    Returns:
        The ``Authorization`` header as Latin-1 text; None if no challenge is supported.
    """
    known = list(challenges)
    user, password = (text.encode().decode("latin-1") for text in (user, password))
    for algorithm, digest in _HASHES.items():
        for challenge in known:
            if challenge.scheme == "digest" and challenge.algorithm == algorithm:
                login = _Digest(digest, user, password, method, uri)
                return login.answer(challenge.items, new_nonce())
    if any(challenge.scheme == "basic" for challenge in known):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
    return None


class _Digest(NamedTuple):
    digest: Callable[[str], str]
    user: str
    password: str
    method: str
    uri: str

    def answer(self, items: dict[str, str], own_nonce: str) -> str:
        realm, nonce = items.get("realm", ""), items.get("nonce", "")
        secret = self.digest(f"{self.user}:{realm}:{self.password}")
        request = self.digest(f"{self.method}:{self.uri}")
        fields = {"username": self.user, "realm": realm, "nonce": nonce, "uri": self.uri}
        bare = {"algorithm": items["algorithm"]} if "algorithm" in items else {}
        if "auth" in re.split(r"\s*,\s*", items.get("qop", "")):
            fields["cnonce"] = own_nonce
            bare |= {"qop": "auth", "nc": _COUNT}
            fields["response"] = self.digest(f"{secret}:{nonce}:{_COUNT}:{own_nonce}:auth:{request}")
        else:
            fields["response"] = self.digest(f"{secret}:{nonce}:{request}")
        if "opaque" in items:
            fields["opaque"] = items["opaque"]
        shown = [f"{name}={_quote(value)}" for name, value in fields.items()] + [
            f"{name}={value}" for name, value in bare.items()
        ]
        return "Digest " + ", ".join(shown)


def _quote(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
