"""The webhook against real HTTP servers on loopback: slow, failing, away, with a password, and over TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device.core.clock import ManualClock
from device.core.errors import SinkError, UsageError
from device.protocols import Event, Note, RunEnded, RunStopping, Trouble
from device.sinks.background import BackgroundSink
from device.sinks.webhook import WebhookOptions, WebhookSink
from tests.unit.certificates import make_certificate
from tests.unit.endpoint import PASSWORD, USER, Endpoint
from tests.unit.mosquitto import wait_until
from tests.unit.processes import free_port
from tests.unit.records import frame, interruption, interval, meter, run_record, run_summary, source_interval


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


class Hook:
    """A sink behind its thread, as the daemon drives it, and what it reports."""

    def __init__(self, url: str, environ: dict[str, str] | None = None, **options: Any) -> None:
        self.troubles: list[str] = []
        self.clock = ManualClock(wall_time_s=1e9)
        wanted = WebhookOptions(url=url, **{"timeout_s": 5.0, "backoff_s": 0.01, **options})
        report = self.troubles.append
        self.sink = WebhookSink(
            wanted, profile="rpi4", clock=self.clock, report=report, environ=environ or {"NETRC": "/dev/null"}
        )
        self.sink.flush_interval_s = 0.05
        self.background = BackgroundSink(self.sink, report)

    def post(self, *events: Event) -> None:
        for event in events:
            self.background.write(event)

    def post_now(self, event: Event) -> None:
        """Posts past the queue."""
        self.sink.write(self.sink.prepare(event))


@pytest.fixture
def make_hook() -> Iterator[Callable[..., Hook]]:
    hooks: list[Hook] = []

    def make(*arguments: Any, **options: Any) -> Hook:
        hooks.append(Hook(*arguments, **options))
        return hooks[-1]

    yield make
    for hook in hooks:
        hook.background.close()


def test_every_event_but_a_frames_is_posted_in_order(endpoint: Endpoint, make_hook: Callable[..., Hook]) -> None:
    hook = make_hook(endpoint.url)
    events: list[Event] = [
        run_record(),
        interval(
            1, power_w=2.5, energy_j=2.5, power_covered_s=1.0, power_source="rapl", power_scope="cpu", power_is_estimate=False
        ),
        source_interval(1),
        interruption(),
        meter(),
        Note("a note"),
        Trouble("a trouble"),
        RunStopping("camera: stalled"),
        RunEnded(run_summary()),
    ]
    assert not isinstance(frame(0), hook.sink.takes)
    assert all(isinstance(event, hook.sink.takes) for event in events)
    hook.post(*events)
    hook.background.close()
    assert [body["event"] for body in endpoint.bodies] == [
        "run_started",
        "interval",
        "source_interval",
        "interruption",
        "meter",
        "note",
        "trouble",
        "run_stopping",
        "run_ended",
    ]
    assert [body["id"] for body in endpoint.bodies] == [f"run-1-{number}" for number in range(9)]
    assert {(body["run_id"], body["profile"], body["time_s"]) for body in endpoint.bodies} == {("run-1", "rpi4", 1e9)}
    assert endpoint.bodies[1]["data"]["power"]["power_w"] == 2.5
    assert endpoint.bodies[5]["data"] == {"line": "a note"}
    assert endpoint.bodies[8]["data"]["summary"]["frames"] == 6000
    assert {headers["Content-Type"] for headers in endpoint.headers} == {"application/json"}
    assert hook.troubles == []


def test_time_is_when_it_was_emitted_and_not_when_it_was_posted(endpoint: Endpoint, make_hook: Callable[..., Hook]) -> None:
    hook = make_hook(endpoint.url)
    message = hook.sink.prepare(Note("early"))
    hook.clock.advance(60.0)
    hook.sink.write(message)
    assert endpoint.bodies[0]["time_s"] == 1e9


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_that_fails_for_a_while_gets_the_event_once(
    endpoint: Endpoint, make_hook: Callable[..., Hook], status: int
) -> None:
    endpoint.answers = [status, status]
    hook = make_hook(endpoint.url, retries=2)
    hook.post_now(Note("again"))
    assert [body["data"]["line"] for body in endpoint.bodies] == ["again"]
    assert len(endpoint.headers) == 3


def test_after_the_last_attempt_the_event_is_lost_and_the_next_one_may_succeed(
    endpoint: Endpoint, make_hook: Callable[..., Hook]
) -> None:
    endpoint.answers = [500] * 3
    hook = make_hook(endpoint.url, retries=2)
    with pytest.raises(SinkError, match="answers with status 500"):
        hook.post_now(Note("lost"))
    with pytest.raises(SinkError):
        hook.sink.flush()
    hook.post_now(Note("kept"))
    hook.sink.flush()
    assert [body["id"].rpartition("-")[2] for body in endpoint.bodies] == ["1"]
    hook.background.close()
    assert hook.troubles[-1] == f"webhook {endpoint.url}: events that could not be delivered: 1"


@pytest.mark.parametrize("status", [400, 404, 413])
def test_what_a_server_refuses_is_not_posted_again(endpoint: Endpoint, make_hook: Callable[..., Hook], status: int) -> None:
    endpoint.answers = [status]
    hook = make_hook(endpoint.url)
    with pytest.raises(SinkError, match=f"refuses the event \\(status {status}\\)"):
        hook.post_now(Note("x"))
    assert len(endpoint.headers) == 1


def test_a_redirection_is_not_followed(endpoint: Endpoint, make_hook: Callable[..., Hook]) -> None:
    endpoint.answers = [307]
    hook = make_hook(endpoint.url)
    with pytest.raises(SinkError, match="redirects"):
        hook.post_now(Note("x"))
    assert endpoint.bodies == []


def test_an_endpoint_that_comes_back_gets_what_waited(make_hook: Callable[..., Hook]) -> None:
    port = free_port()
    hook = make_hook(f"http://127.0.0.1:{port}/hook", retries=1)
    hook.post(run_record(), Note("lost"))
    wait_until(lambda: hook.troubles, "trouble")
    wait_until(lambda: hook.background._queue.empty(), "attempts")
    endpoint = Endpoint(port)
    try:
        hook.post(Note("kept"))
        wait_until(lambda: endpoint.bodies, "event")
        wait_until(lambda: len(hook.troubles) == 2, "all clear")
    finally:
        endpoint.close()
    assert hook.troubles[0].startswith(f"webhook http://127.0.0.1:{port}/hook: can't be reached")
    assert hook.troubles[1] == "WebhookSink works again"


def test_an_endpoint_that_is_away_holds_nobody_up_and_takes_no_memory(make_hook: Callable[..., Hook]) -> None:
    hook = make_hook(f"http://127.0.0.1:{free_port()}/hook", retries=20, backoff_s=30.0, queue=10)
    started_s = time.monotonic()
    hook.post(*[Note(str(number)) for number in range(1000)])
    assert time.monotonic() - started_s < 1.0
    assert hook.background.lost >= 989
    assert hook.background._queue.qsize() <= 10
    hook.background.close()
    # The end waits for no attempt to come.
    assert time.monotonic() - started_s < 5.0
    assert not hook.background._thread.is_alive()
    assert any("too slow" in line for line in hook.troubles)
    assert "could not be delivered" in hook.troubles[-1]


def test_a_slow_endpoint_is_given_up_after_the_timeout(endpoint: Endpoint, make_hook: Callable[..., Hook]) -> None:
    endpoint.delay_s = 1.0
    hook = make_hook(endpoint.url, timeout_s=0.1, retries=0)
    with pytest.raises(SinkError, match="can't be reached"):
        hook.post_now(Note("x"))


def test_user_and_password_come_from_the_netrc_file_and_are_never_shown(tmp_path: Path, make_hook: Callable[..., Hook]) -> None:
    endpoint = Endpoint(login=True)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    try:
        make_hook(endpoint.url, {"NETRC": str(netrc)}).post_now(Note("x"))
        assert len(endpoint.bodies) == 1
        stranger = make_hook(endpoint.url)
        with pytest.raises(SinkError, match=r"names no user \(status 401\)") as caught:
            stranger.post_now(Note("x"))
        assert caught.value.reason == "unauthorised"
        wrong = make_hook(endpoint.url.replace("//", f"//{USER}:wr0ngword@"))
        with pytest.raises(SinkError, match="refuses this user or password") as caught:
            wrong.post_now(Note("x"))
        assert "wr0ngword" not in str(caught.value)
    finally:
        endpoint.close()


def test_tls_is_checked(tmp_path: Path, make_hook: Callable[..., Hook]) -> None:
    certificate = make_certificate(tmp_path)
    endpoint = Endpoint(certificate=certificate)
    url = endpoint.url.replace("http:", "https:")
    try:
        with pytest.raises(SinkError, match="can't be trusted") as caught:
            make_hook(url).post_now(Note("x"))
        assert caught.value.reason == "certificate"
        assert endpoint.bodies == []
        make_hook(url, ca_file=str(certificate)).post_now(Note("x"))
        assert len(endpoint.bodies) == 1
    finally:
        endpoint.close()


def test_certificates_that_are_not_there_are_named(tmp_path: Path, make_hook: Callable[..., Hook]) -> None:
    with pytest.raises(SinkError, match=r"nobody\.pem") as caught:
        make_hook("https://127.0.0.1/hook", ca_file=str(tmp_path / "nobody.pem"))
    assert caught.value.reason == "certificate"


@pytest.mark.parametrize("url", ["", "host", "ftp://host/x", "http:host", f"http://{USER}:{PASSWORD}@", "http://a b/"])
def test_a_url_that_is_none_is_refused_without_showing_it(url: str, make_hook: Callable[..., Hook]) -> None:
    with pytest.raises(UsageError) as caught:
        make_hook(url)
    assert str(caught.value).startswith("--webhook: ")
    assert caught.value.reason == "malformed_uri"
    assert PASSWORD not in str(caught.value)
