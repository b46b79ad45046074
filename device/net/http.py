"""Asks a server on the local network over HTTP: past any proxy, and with a password that goes to its own host only."""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection
from typing import IO
from urllib.parse import urlsplit

from device import __version__
from device.core.errors import GhostwattError
from device.net.address import DEFAULT_PORTS, Address
from device.net.login import make_login, parse_challenges


def make_opener(
    address: Address,
    *,
    error: type[GhostwattError],
    redirects: urllib.request.HTTPRedirectHandler | None = None,
    plain: type[HTTPConnection] = HTTPConnection,
    tls: type[HTTPSConnection] = HTTPSConnection,
    tls_context: ssl.SSLContext | None = None,
) -> urllib.request.OpenerDirector:
    """Puts together what is needed, and no more: no proxies, which the local network isn't behind, and no other protocols.

    Args:
        address: whose host is asked; where it names a user, he logs in there, and nowhere that a redirection leads to.
        error: raised where the server asks for a login of a kind that isn't known here, ``unauthorised``.
        redirects: follows them; without it, a redirection is a status like any other.
        plain: the connection for ``http``.
        tls: the connection for ``https``.
        tls_context: whom to trust; this machine's authorities if None, which are loaded with each connection.

    Returns:
        Opens URLs, and raises what `urllib.request.urlopen` does. Its errors' texts may hold the URL, and secrets in it.
    """
    handlers: list[urllib.request.BaseHandler] = [
        _PlainHandler(plain),
        _TlsHandler(tls, tls_context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ]
    if redirects is not None:
        handlers.append(redirects)
    if address.user is not None:
        handlers.append(_Login(address, address.user, address.password or "", error))
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-agent", f"ghostwatt/{__version__}")]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _PlainHandler(urllib.request.AbstractHTTPHandler):
    http_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, connection: type[HTTPConnection]) -> None:
        super().__init__()
        self._connection = connection

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        """Opens an ``http`` address."""
        return self.do_open(self._connection, request)


class _TlsHandler(urllib.request.AbstractHTTPHandler):
    """Loads the machine's certificates only once TLS is spoken: they are megabytes, and a camera may be opened often."""

    https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, connection: type[HTTPSConnection], context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._connection = connection
        self._ssl_context = context

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        """Opens an ``https`` address."""
        context = self._ssl_context or ssl.create_default_context()
        return self.do_open(self._connection, request, context=context)


class _Login(urllib.request.BaseHandler):
    """Logs in once, at the address that the password is for."""

    def __init__(self, address: Address, user: str, password: str, error: type[GhostwattError]) -> None:
        self._address = address
        self._user = user
        self._password = password
        self._error = error

    def http_error_401(
        self, request: urllib.request.Request, answer: IO[bytes], _status: int, _words: str, headers: HTTPMessage
    ) -> object:
        """Asks again, with user and password; gives None where that was done already."""
        if request.has_header("Authorization"):
            return None
        if not self._is_home(request.full_url):
            answer.close()
            raise self._elsewhere(request.full_url)
        challenges = parse_challenges(headers.get_all("WWW-Authenticate", []))
        login = make_login(challenges, self._user, self._password, method=request.get_method(), uri=request.selector)
        answer.close()
        if login is None:
            raise self._error(
                self._address.safe,
                "asks for a login of a kind that isn't supported",
                expected="Basic, or Digest by MD5 or SHA-256",
                reason="unauthorised",
            )
        request.add_unredirected_header("Authorization", login)
        return self.parent.open(request, timeout=request.timeout)

    def _elsewhere(self, url: str) -> GhostwattError:
        """The error for a login at a place that the password isn't for; nothing but its host is shown."""
        asked = urlsplit(url)
        return self._error(
            self._address.safe,
            f"sends on to {asked.scheme}://{asked.hostname}, which wants a user and a password",
            expected="the address of the stream itself: the password goes to no other",
            reason="unauthorised",
        )

    def _is_home(self, url: str) -> bool:
        asked = urlsplit(url)
        home = self._address
        return (asked.scheme, asked.hostname, asked.port or DEFAULT_PORTS[home.scheme]) == (
            home.scheme,
            home.host.lower(),
            home.port,
        )
