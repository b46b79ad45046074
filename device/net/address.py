"""Addresses of network cameras and brokers: taken apart once, and from then on shown without what must stay secret.

Where a URI names no user, the netrc file is asked for the host's (``~/.netrc``, or what ``NETRC`` in the environment names):
what stands on a command line is read by everyone on the machine, and what stands in a profile travels with the bundle.

References:
    RFC 3986 (2005), section 3: what a URI is made of. RFC 2326 (1998), section 3.2: ``rtsp``.
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
"""A query's value longer than this is masked whatever it is called: tokens go by many names."""

# A key that holds one of these words is a secret's.
_SECRET_WORDS = (
    "user", "usr", "login", "account", "pass", "pwd", "psw", "auth", "token", "key", "secret", "sign", "sig", "session", "sid",
    "cred", "code", "hash", "jwt", "ticket", "nonce",
)  # fmt: skip

# Cheap recorders take /user=admin&password=tlJwpbo6&channel=1 or /user=admin_password=tlJwpbo6_channel=1 for a path: where a
# word of the above is followed by "=", the rest of the segment is masked, since nothing says where the value ends.
_SECRET_IN_PATH = re.compile(rf"((?:{'|'.join(_SECRET_WORDS)})[\w.-]*(?:=|%3D))[^/]+", re.IGNORECASE)

# What may stand in a URI's path and query, and what is encoded already; the rest is encoded when it is sent.
_URL_CHARACTERS = "%/?:@!$&'()*+,;="

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, repr=False)
class Address:
    """Where a network camera or a broker is.

    ``str`` and ``repr`` give `safe`. `user`, `password`, `path` and `query` may hold secrets: those go to the server, and into
    no error, log, record or thread's name.

    Attributes:
        scheme: in lower case.
        host: a name or an address; IPv6 without brackets.
        port: as given, or the scheme's own.
        path: as written, percent-encoded; empty, or with a leading slash.
        query: as written, without its question mark.
        fragment: behind ``#``: never sent, read by the source.
        user: decoded; None where there is none.
        password: likewise.
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
        """``HOST`` or ``HOST:PORT``, as it stands in a URI, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def safe(self) -> str:
        """To show: without user and password, and with `MASK` for whatever in the path or the query looks like a secret.

        Masked are query values whose key holds a word such as ``user``, ``pass``, ``token`` or ``key``, or that are longer than
        `LONGEST_SHOWN_VALUE`. A path that is a secret by itself looks like any other, and is shown.
        """
        path = _SECRET_IN_PATH.sub(rf"\g<1>{MASK}", self.path)
        query = "&".join(_mask(item) for item in self.query.split("&"))
        tail = (f"?{query}" if query else "") + (f"#{self.fragment}" if self.fragment else "")
        return f"{self.scheme}://{self.authority}{path}{tail}"

    def url(self, *, with_credentials: bool = False, extra_query: str = "") -> str:
        """The whole address, without `fragment`. May hold secrets.

        Args:
            with_credentials: with user and password, for libraries that take them in no other way.
            extra_query: one more item of the query, for such a library.
        """
        login = ""
        if with_credentials and self.user is not None:
            password = "" if self.password is None else ":" + quote(self.password, safe="")
            login = f"{quote(self.user, safe='')}{password}@"
        query = "&".join(item for item in (self.query, extra_query) if item)
        target = quote(f"{self.path or '/'}{'?' if query else ''}{query}", safe=_URL_CHARACTERS)
        return f"{self.scheme}://{login}{self.authority}{target}"


def parse_address(scheme: Scheme, rest: str) -> Address:
    """Takes apart what follows a scheme's colon: ``//[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#FRAGMENT]``.

    Args:
        scheme: in lower case.
        rest: as given. User and password are percent-decoded; in a password, ``/``, ``?``, ``#`` and ``%`` must be encoded.

    Raises:
        UsageError: ``malformed_uri``; nothing of ``rest`` is shown, since nothing says which part of it is the secret.
    """
    if not rest.startswith("//"):
        raise _malformed(scheme, "no // behind the colon")
    if _UNPRINTABLE.search(rest):
        raise _malformed(scheme, "a space or a control character in it")
    before, hash_sign, fragment = rest[2:].partition("#")
    authority, mark, tail = _split_authority(before)
    if "@" in tail or "@" in fragment:
        raise _malformed(scheme, "an @ behind the host")
    path, _, query = (mark + tail).partition("?")
    login, at, host_and_port = authority.rpartition("@")
    match = _AUTHORITY.fullmatch(host_and_port)
    if match is None or (hash_sign and not fragment):
        raise _malformed(scheme, "no host that can be read" if match is None else "nothing behind #")
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
    """Looks user and password up in the netrc file, for an address that has none.

    Args:
        address: taken as it is where it names a user.
        environ: ``NETRC`` names the file. Without it, ``~/.netrc`` is read where it is there.
        error: what to raise.

    Raises:
        GhostwattError: ``missing`` where the file that ``NETRC`` names isn't there, ``malformed`` where the file can't be read.
    """
    if address.user is not None:
        return address
    path = environ.get("NETRC")
    try:
        found = netrc.netrc(path).authenticators(address.host)
    except FileNotFoundError:
        if path is None:
            return address
        raise error(path, "not there", expected="the file that NETRC names", reason="missing") from None
    except netrc.NetrcParseError as cause:
        # Its message may quote a password.
        line = f"line {cause.lineno}" if cause.lineno else "its owner or its rights"
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
        remedy="and chmod 600, its owner being who runs this",
        reason="malformed",
    )


def _split_authority(text: str) -> tuple[str, str, str]:
    """Gives what stands before the first ``/`` or ``?``, that character, and what stands behind it."""
    end = min((at for at in (text.find("/"), text.find("?")) if at >= 0), default=len(text))
    return text[:end], text[end : end + 1], text[end + 1 :]


def _require_host(scheme: Scheme, text: str) -> str:
    if not text.startswith("["):
        try:
            text.encode("idna")
        except UnicodeError:
            raise _malformed(scheme, "a host's name with a part that is empty or too long") from None
        return text
    host = text[1:-1]
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise _malformed(scheme, "no IPv6 address between the brackets") from None
    return host


def _require_port(scheme: Scheme, text: str | None) -> int:
    port = DEFAULT_PORTS[scheme] if text is None else int(text)
    if not 0 < port < 65536:
        raise _malformed(scheme, "a port that isn't from 1 to 65535")
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
        f"'{scheme}:...' can't be read: {what}",
        expected=f"{scheme}://[USER:PASSWORD@]HOST[:PORT]/PATH",
        remedy="in a user or a password write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %",
        reason="malformed_uri",
    )
