"""HTTP requests to servers on the local network: without proxies, and with a password that is sent only to its own host."""

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
    """Creates an opener for HTTP and HTTPS, without proxies, which aren't used on a local network, and without other protocols.

    Args:
        address: the server's address; if it names a user, the login is used only there, not where a redirect leads.
        error: raised as ``unauthorised`` if the server requires a login of an unsupported kind.
        redirects: follows redirects; without it, a redirect is a status like any other.
        plain: the connection class for ``http``.
        tls: the connection class for ``https``.
        tls_context: the authorities to trust; this machine's if None, loaded with each connection.

    Returns:
        An opener that raises the errors of `urllib.request.urlopen`, whose texts may contain the URL with its secrets.
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
        """Opens an ``http`` URL."""
        return self.do_open(self._connection, request)


class _TlsHandler(urllib.request.AbstractHTTPHandler):
    """Loads the machine's certificates only if TLS is used: they are megabytes, and a camera may be opened often."""

    https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, connection: type[HTTPSConnection], context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._connection = connection
        self._ssl_context = context

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        """Opens an ``https`` URL."""
        context = self._ssl_context or ssl.create_default_context()
        return self.do_open(self._connection, request, context=context)


class _Login(urllib.request.BaseHandler):
    """Logs in once, at the address that the password belongs to."""

    def __init__(self, address: Address, user: str, password: str, error: type[GhostwattError]) -> None:
        self._address = address
        self._user = user
        self._password = password
        self._error = error

    def http_error_401(
        self, request: urllib.request.Request, answer: IO[bytes], _status: int, _words: str, headers: HTTPMessage
    ) -> object:
        """Repeats the request with user and password; returns None if that was done already."""
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
                "requires an unsupported kind of login",
                expected="Basic, or Digest with MD5 or SHA-256",
                reason="unauthorised",
            )
        request.add_unredirected_header("Authorization", login)
        return self.parent.open(request, timeout=request.timeout)

    def _elsewhere(self, url: str) -> GhostwattError:
        """The error for a login that a redirect leads to, where the password must not be sent; shows only the host."""
        asked = urlsplit(url)
        return self._error(
            self._address.safe,
            f"redirects to {asked.scheme}://{asked.hostname}, which requires a user and a password",
            expected="the address of the stream itself: the password is sent to no other host",
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
