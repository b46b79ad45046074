"""Addresses of network cameras and brokers, parsed once, and always shown without their secrets.

If a URI names no user, the netrc file (``~/.netrc``, or the file that ``NETRC`` in the environment names) is searched for the
host: a command line can be read by everyone on the machine, and a profile travels with its bundle.

References:
    RFC 3986 (2005), section 3: the parts of a URI. RFC 2326 (1998), section 3.2: ``rtsp``.
    Python's ``netrc`` module: the file's format.
"""

from __future__ import annotations

import ipaddress
import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote, unquote

from device.core.errors import GhostwattError, SourceError, UsageError

Scheme = Literal["rtsp", "rtsps", "http", "https", "mqtt", "mqtts"]

DEFAULT_PORTS: dict[Scheme, int] = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
"""RFC 2326 section 3.2, RFC 7826 section 4.2 (``rtsps``), RFC 9110 section 4.2, MQTT 3.1.1 section 4.2 (IANA's ports)."""

MASK = "***"

LONGEST_SHOWN_VALUE = 15
"""Longer values in a query are always masked: tokens go by many names."""

# The value of a key that contains one of these words is secret.
_SECRET_WORDS = (
    "user", "usr", "login", "account", "pass", "pwd", "psw", "auth", "token", "key", "secret", "sign", "sig", "session", "sid",
    "cred", "code", "hash", "jwt", "ticket", "nonce",
)  # fmt: skip

# Cheap recorders use paths such as /user=admin&password=tlJwpbo6&channel=1 or /user=admin_password=tlJwpbo6_channel=1: after
# one of these words and "=", the rest of the segment is masked, because the end of the value is unknown.
_SECRET_IN_PATH = re.compile(rf"((?:{'|'.join(_SECRET_WORDS)})[\w.-]*(?:=|%3D))[^/]+", re.IGNORECASE)

# Characters that are valid in a URI's path and query, and "%" of what is encoded already; all others are encoded when sent.
_URL_CHARACTERS = "%/?:@!$&'()*+,;="

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, repr=False)
class Address:
    """Address of a network camera or a broker.

    ``str`` and ``repr`` return `safe`. `user`, `password`, `path` and `query` may contain secrets: they are sent to the server,
    but must not appear in errors, logs, records or thread names.

    Attributes:
        scheme: in lower case.
        host: a name or an address; IPv6 without brackets.
        port: as given, or the scheme's default.
        path: as written, percent-encoded; empty, or with a leading slash.
        query: as written, without the question mark.
        fragment: text after ``#``, which isn't sent, but used by the source.
        user: decoded; None if there is none.
        password: decoded; None if there is none.
    """

    scheme: Scheme
    host: str
    port: int
    path: str = ""
    query: str = ""
    fragment: str = ""
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.safe!r})"

    def __str__(self) -> str:
        return self.safe

    @property
    def authority(self) -> str:
        """``HOST`` or ``HOST:PORT``, as in a URI, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def safe(self) -> str:
        """The address for display: without user and password, and with `MASK` in place of what looks like a secret.

        Query values are masked if their key contains a word such as ``user``, ``pass``, ``token`` or ``key``, or if they are
        longer than `LONGEST_SHOWN_VALUE`. A path that is itself a secret can't be recognised, and is shown.
        """
        path = _SECRET_IN_PATH.sub(rf"\g<1>{MASK}", self.path)
        query = "&".join(_mask(item) for item in self.query.split("&"))
        tail = (f"?{query}" if query else "") + (f"#{self.fragment}" if self.fragment else "")
        return f"{self.scheme}://{self.authority}{path}{tail}"

    def url(self, *, with_credentials: bool = False, extra_query: str = "") -> str:
        """The complete address, without `fragment`. May contain secrets.

        Args:
            with_credentials: include user and password, for libraries that accept them in no other way.
            extra_query: another item for the query.
        """
        login = ""
        if with_credentials and self.user is not None:
            password = "" if self.password is None else ":" + quote(self.password, safe="")
            login = f"{quote(self.user, safe='')}{password}@"
        query = "&".join(item for item in (self.query, extra_query) if item)
        target = quote(f"{self.path or '/'}{'?' if query else ''}{query}", safe=_URL_CHARACTERS)
        return f"{self.scheme}://{login}{self.authority}{target}"


def parse_address(scheme: Scheme, rest: str) -> Address:
    """Parses what follows a scheme's colon: ``//[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#FRAGMENT]``.

    Args:
        scheme: in lower case.
        rest: as given. User and password are percent-decoded; in a password, ``/``, ``?``, ``#`` and ``%`` must be encoded.

    Raises:
        UsageError: ``malformed_uri``; shows nothing of ``rest``, because any part of it may be the secret.
    """
    if not rest.startswith("//"):
        raise _malformed(scheme, "no // after the colon")
    if _UNPRINTABLE.search(rest):
        raise _malformed(scheme, "it has a space or a control character")
    before, hash_sign, fragment = rest[2:].partition("#")
    authority, mark, tail = _split_authority(before)
    if "@" in tail or "@" in fragment:
        raise _malformed(scheme, "it has an @ after the host")
    path, _, query = (mark + tail).partition("?")
    login, at, host_and_port = authority.rpartition("@")
    match = _AUTHORITY.fullmatch(host_and_port)
    if match is None or (hash_sign and not fragment):
        raise _malformed(scheme, "it has no valid host" if match is None else "nothing follows the #")
    user, colon, password = login.partition(":")
    return Address(
        scheme=scheme,
        host=_require_host(scheme, match["host"]),
        port=_require_port(scheme, match["port"]),
        path=path,
        query=query,
        fragment=fragment,
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def add_credentials(
    address: Address, environ: Mapping[str, str] = os.environ, error: type[GhostwattError] = SourceError
) -> Address:
    """Adds user and password from the netrc file to an address that has none.

    Args:
        address: returned unchanged if it names a user.
        environ: ``NETRC`` names the file. Without it, ``~/.netrc`` is read if it exists.
        error: the class of error to raise.

    Raises:
        GhostwattError: ``missing`` if the file that ``NETRC`` names doesn't exist, ``malformed`` if the file can't be read.
    """
    if address.user is not None:
        return address
    path = environ.get("NETRC")
    try:
        found = netrc.netrc(path).authenticators(address.host)
    except FileNotFoundError:
        if path is None:
            return address
        raise error(path, "doesn't exist", expected="the file that NETRC names", reason="missing") from None
    except netrc.NetrcParseError as cause:
        # The error's text may quote a password.
        line = f"line {cause.lineno}" if cause.lineno else "its owner or its permissions"
        raise _bad_netrc(error, path, f"can't be read: {line}") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise _bad_netrc(error, path, f"can't be read: {type(cause).__name__}") from None
    if found is None:
        return address
    user, _, password = found
    return replace(address, user=user, password=password)


def _bad_netrc(error: type[GhostwattError], path: str | None, found: str) -> GhostwattError:
    return error(
        path or "~/.netrc",
        found,
        expected="lines such as: machine HOST login USER password PASSWORD",
        remedy="it must have mode 600, and belong to the user who runs this",
        reason="malformed",
    )


def _split_authority(text: str) -> tuple[str, str, str]:
    """Splits a text at the first ``/`` or ``?`` into what precedes it, the character, and what follows it."""
    end = min((at for at in (text.find("/"), text.find("?")) if at >= 0), default=len(text))
    return text[:end], text[end : end + 1], text[end + 1 :]


def _require_host(scheme: Scheme, text: str) -> str:
    if not text.startswith("["):
        try:
            text.encode("idna")
        except UnicodeError:
            raise _malformed(scheme, "a part of the host's name is empty or too long") from None
        return text
    host = text[1:-1]
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise _malformed(scheme, "the brackets contain no IPv6 address") from None
    return host


def _require_port(scheme: Scheme, text: str | None) -> int:
    port = DEFAULT_PORTS[scheme] if text is None else int(text)
    if not 0 < port < 65536:
        raise _malformed(scheme, "the port isn't from 1 to 65535")
    return port


def _mask(item: str) -> str:
    key, sign, value = item.partition("=")
    name = unquote(key).lower()
    if not sign:
        return item if len(item) <= LONGEST_SHOWN_VALUE else MASK
    if len(name) > LONGEST_SHOWN_VALUE:
        return f"{MASK}={MASK}"
    is_secret = len(value) > LONGEST_SHOWN_VALUE or any(word in name for word in _SECRET_WORDS)
    return f"{key}={MASK}" if is_secret and value else item


def _malformed(scheme: str, what: str) -> UsageError:
    return UsageError(
        "--mqtt" if scheme in ("mqtt", "mqtts") else "source",
        f"'{scheme}:...' is malformed: {what}",
        expected=f"{scheme}://[USER:PASSWORD@]HOST[:PORT]/PATH",
        remedy="in user and password, write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %",
        reason="malformed_uri",
    )
