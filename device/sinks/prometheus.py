"""A page for Prometheus: what the newest records say, see `device.sinks.prometheus_series`.

References:
    https://prometheus.io/docs/instrumenting/exposition_formats/; the page is written by prometheus-client.
"""

from __future__ import annotations

import errno
import re
import socket
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from msgspec import Meta

from device.core.errors import SinkError, UsageError
from device.core.plugin import Needs, import_package
from device.protocols import Clock, Event, SinkContext
from device.sinks.base import SinkPlugin
from device.sinks.prometheus_series import SeriesTable

if TYPE_CHECKING:
    from prometheus_client import Metric

DEFAULT_HOST = "127.0.0.1"
"""Only this machine; ``0.0.0.0:PORT`` lets others in."""

REQUEST_TIMEOUT_S = 10.0
"""For a client's request: Prometheus itself waits no longer for an answer (``scrape_timeout``)."""

_LISTEN = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+):)?(?P<port>[0-9]{1,5})")

_SUFFIX = {"counter": "_total", "info": "_info"}


class Listen(NamedTuple):
    """Where to listen. ``str`` gives it in the form of the flag."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen:
    """Reads ``[HOST:]PORT``; IPv6 in brackets.

    Raises:
        UsageError: ``malformed_address``.
    """
    match = _LISTEN.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UsageError(
            "--prometheus",
            repr(text),
            expected="PORT or HOST:PORT, such as 9464 or 0.0.0.0:9464",
            reason="malformed_address",
        )
    return Listen((match["host"] or DEFAULT_HOST).strip("[]"), int(match["port"]))


class PrometheusOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile may give it."""

    listen: Annotated[str, Meta(description="[HOST:]PORT; only this machine is served, unless HOST is 0.0.0.0")]


class PrometheusSink(SinkPlugin):
    """A page for Prometheus, ``http://HOST:PORT/metrics``, served from a thread of its own.

    Args:
        listen: where, see `parse_listen`.
        clock: that records' timestamps are of.
        interval_s: time between `IntervalRecord`s.

    Raises:
        UsageError: ``malformed_address``.
        SinkError: ``busy``, ``permission``, or ``address`` where this machine doesn't have it.
    """

    Options: ClassVar[type[msgspec.Struct]] = PrometheusOptions
    needs: ClassVar[Needs] = Needs(extra="prometheus", is_networked=True)

    @classmethod
    def open(cls, options: PrometheusOptions, context: SinkContext) -> Self:
        """Begins to listen."""
        return cls(options.listen, clock=context.clock, interval_s=context.profile.telemetry.interval_s)

    def __init__(self, listen: str, *, clock: Clock, interval_s: float) -> None:
        package = import_package("prometheus_client", self.needs, "sink prometheus")
        self._table = SeriesTable(clock, interval_s)
        registry = package.CollectorRegistry()
        registry.register(TableCollector(self._table))
        self._server: _Server | None = _open_server(parse_listen(listen))
        self._server.set_app(package.make_wsgi_app(registry))
        threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True).start()

    def write(self, event: Event) -> None:
        """Changes what the next scrape finds."""
        self._table.take(event)

    def close(self) -> None:
        """Stops listening."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class TableCollector:
    """What prometheus-client asks at each scrape."""

    def __init__(self, table: SeriesTable) -> None:
        self._table = table

    def collect(self) -> Iterable[Metric]:
        """Gives the table's series."""
        from prometheus_client import Metric
        from prometheus_client.core import Sample

        for family, series in self._table.read():
            metric = Metric(family.name, family.help, family.kind)
            name = family.name + _SUFFIX.get(family.kind, "")
            metric.samples = [Sample(name, labels, value) for labels, value in series]
            yield metric


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: a journal is for people."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Some Pythons set it for HTTP servers: then two daemons would share a port, and each scrape would meet either.
    allow_reuse_port = False

    def server_bind(self) -> None:
        """Binds, without asking name servers what the address is called, as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that went away."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _open_server(listen: Listen) -> _Server:
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return (_Server6 if family == socket.AF_INET6 else _Server)((str(address[0]), listen.port), _Handler)
    except (OSError, UnicodeError) as error:
        raise _explain(listen, error) from error


def _explain(listen: Listen, error: OSError | UnicodeError) -> SinkError:
    where = f"--prometheus {listen}"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return SinkError(where, "is taken by another program", remedy="choose another port", reason="busy")
    if code in (errno.EACCES, errno.EPERM):
        return SinkError(where, "is for root alone", remedy="choose a port from 1024 on", reason="permission")
    return SinkError(where, f"can't be listened on ({error})", expected="an address of this machine", reason="address")
