"""Addresses of network cameras, and that nothing secret in them is ever shown."""

from __future__ import annotations

import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.errors import GhostwattError, SourceError, UsageError
from device.net.address import MASK, Address, Scheme, add_credentials, parse_address
from device.sources.uri import split_uri

CANARY = "Kanarienvogel"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("//camera", Address("rtsp", "camera", 554)),
        ("//camera:8554/stream", Address("rtsp", "camera", 8554, "/stream")),
        ("//camera?x=1", Address("rtsp", "camera", 554, "", "x=1")),
        ("//camera/a?x=1&y=/2?#udp", Address("rtsp", "camera", 554, "/a", "x=1&y=/2?", "udp")),
        ("//me@camera/", Address("rtsp", "camera", 554, "/", user="me")),
        ("//me:@camera/", Address("rtsp", "camera", 554, "/", user="me", password="")),
        ("//:secret@camera/", Address("rtsp", "camera", 554, "/", user="", password="secret")),
        ("//me:p%40s%3As%2F%3F%23@camera:1/", Address("rtsp", "camera", 1, "/", user="me", password="p@s:s/?#")),
        ("//me:a@b:c@10.0.0.7/", Address("rtsp", "10.0.0.7", 554, "/", user="me", password="a@b:c")),
        ("//me:s@[2001:db8::7]:8554/x", Address("rtsp", "2001:db8::7", 8554, "/x", user="me", password="s")),
    ],
)
def test_parts_of_an_address(rest: str, expected: Address) -> None:
    assert parse_address("rtsp", rest) == expected


@pytest.mark.parametrize(("scheme", "port"), [("rtsp", 554), ("rtsps", 322), ("http", 80), ("https", 443)])
def test_each_scheme_has_its_port(scheme: Scheme, port: int) -> None:
    address = parse_address(scheme, "//camera/x")
    assert address.port == port
    assert address.safe == f"{scheme}://camera/x"
    assert parse_address(scheme, f"//camera:{port}/x").safe == address.safe
    assert parse_address(scheme, "//camera:77/x").safe == f"{scheme}://camera:77/x"


@pytest.mark.parametrize(
    ("rest", "safe"),
    [
        ("//me:Kanarienvogel@camera/a/b?channel=1&real_stream#udp", "//camera/a/b?channel=1&real_stream#udp"),
        ("//camera/cgi?user=me&pwd=Kanarienvogel&w=640", "//camera/cgi?user=***&pwd=***&w=640"),
        ("//camera/x?ACCESS_TOKEN=Kanarienvogel", "//camera/x?ACCESS_TOKEN=***"),
        ("//camera/x?p%61ssword=Kanarienvogel", "//camera/x?p%61ssword=***"),
        ("//camera/x?t=Kanarienvogel1234", "//camera/x?t=***"),
        ("//camera/x?Kanarienvogel1234", "//camera/x?***"),
        ("//camera/x?Kanarienvogel1234=1", "//camera/x?***=***"),
        ("//camera/user=me&password=Kanarienvogel&channel=1/0.sdp?real_stream", "//camera/user=***/0.sdp?real_stream"),
        ("//camera/password=Kanarienvogel_channel=1_stream=0.sdp", "//camera/password=***"),
        ("//camera/password%3DKanarienvogel", "//camera/password%3D***"),
        ("//[::1]:8554/x", "//[::1]:8554/x"),
        ("//camera/x?pass=&w=1", "//camera/x?pass=&w=1"),
    ],
)
def test_what_is_shown(rest: str, safe: str) -> None:
    address = parse_address("rtsp", rest)
    assert address.safe == str(address) == f"rtsp:{safe}"
    assert repr(address) == f"Address('rtsp:{safe}')"
    assert CANARY not in f"{address.safe}{address!r}"


@pytest.mark.parametrize(
    "rest",
    [
        "", "camera/x", "/camera/x", "//", "//:554/x", "//me:Kanarienvogel@/x", "//me:Kanarienvogel@camera:0/x",
        "//me:Kanarienvogel@camera:65536/x", "//me:Kanarienvogel@camera:http/x", "//me:Kanarienvogel@[::1/x",
        "//me:Kanarienvogel@[1.2.3.4.5]/x", "//me:Kanarienvogel@ca mera/x", "//me:Kanarien vogel@camera/x",
        "//me:Kanarienvogel/2@camera/x", "//me:2/Kanarienvogel@camera/x", "//me:2?Kanarienvogel@camera/x",
        "//me:2#Kanarienvogel@camera/x", "//camera/x#", "//me:Kanarienvogel@camera\n/x", "//me:Kanarienvogel%",
        "//me:Kanarienvogel@.../x", "//me:Kanarienvogel@camera..home/x", f"//me:Kanarienvogel@{'camera' * 11}/x",
    ],
)  # fmt: skip
def test_malformed_address_is_refused_and_not_shown(rest: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address("rtsp", rest)
    assert caught.value.reason == "malformed_uri"
    assert CANARY not in "".join(traceback.format_exception_only(caught.value))
    assert "rtsp://[USER:PASSWORD@]HOST" in str(caught.value)


def test_uri_without_a_kind_is_not_shown_where_it_holds_a_password() -> None:
    with pytest.raises(UsageError) as caught:
        split_uri(f"//me:{CANARY}@camera/x")
    assert CANARY not in str(caught.value)


HOSTS = st.sampled_from(["camera", "camera.local", "10.0.0.7", "[::1]"])
SECRETS = st.text(min_size=1).map(lambda text: CANARY + text + CANARY)
KEYS = st.sampled_from(["user", "password", "Pwd", "loginuse", "auth", "apiKey", "token", "sessionid", "x"])


@given(HOSTS, st.integers(1, 65535), SECRETS, SECRETS, KEYS, SECRETS)
def test_no_secret_is_ever_shown_and_none_is_lost(host: str, port: int, user: str, password: str, key: str, value: str) -> None:
    rest = f"//{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}/a/b?{key}={quote(value, safe='')}&w=1#udp"
    address = parse_address("rtsp", rest)
    shown = f"{address} {address!r} {address.safe} {[address]}"
    assert CANARY not in shown
    assert (address.user, address.password) == (user, password)
    assert parse_address("rtsp", address.url(with_credentials=True).removeprefix("rtsp:") + "#udp") == address
    assert CANARY not in address.url().partition("?")[0]


@given(st.text(alphabet="/:@?#[]%=&ab1. \\\n\x00é", max_size=12), st.text(alphabet="/:@?#[]%=&ab1. \\\né", max_size=12))
def test_whatever_is_written_the_password_is_not_shown(before: str, behind: str) -> None:
    try:
        # An @ behind the password is what makes it one.
        shown = parse_address("http", f"//me:{before}{CANARY}{CANARY}{behind}@camera/x").safe
    except GhostwattError as error:
        shown = "".join(traceback.format_exception(error, chain=True)).partition("device.core.errors.")[2]
    assert CANARY not in shown


def test_urls_for_libraries() -> None:
    address = parse_address("rtsp", "//me:a%2Fb@camera/x?y=1#udp")
    assert address.url() == "rtsp://camera/x?y=1"
    assert address.url(with_credentials=True, extra_query="tcp") == "rtsp://me:a%2Fb@camera/x?y=1&tcp"
    assert parse_address("rtsp", "//me@camera").url(with_credentials=True, extra_query="tcp") == "rtsp://me@camera/?tcp"
    assert parse_address("http", "//camera/küche?x=a%20b").url() == "http://camera/k%C3%BCche?x=a%20b"


def write_netrc(folder: Path, text: str) -> dict[str, str]:
    path = folder / "netrc"
    path.write_text(text)
    path.chmod(0o600)
    return {"NETRC": str(path)}


def test_netrc_gives_what_the_uri_does_not(tmp_path: Path) -> None:
    environ = write_netrc(tmp_path, f"machine camera\nlogin me\npassword {CANARY}\n")
    found = add_credentials(parse_address("http", "//camera:8080/video"), environ)
    assert (found.user, found.password) == ("me", CANARY)
    assert found.safe == "http://camera:8080/video"
    other = parse_address("http", "//other/video")
    assert add_credentials(other, environ) == other
    own = parse_address("http", "//you:own@camera/video")
    assert add_credentials(own, environ) == own


def test_netrc_at_home_is_found_and_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    address = parse_address("http", "//camera/video")
    assert add_credentials(address, {}) == address
    (tmp_path / ".netrc").write_text(f"machine camera login me password {CANARY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert add_credentials(address, {}).password == CANARY


def test_named_netrc_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        add_credentials(parse_address("http", "//camera/video"), {"NETRC": str(tmp_path / "none")})
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("text", [f"machine camera login me password {CANARY} {CANARY}", f"{CANARY}\n"])
def test_malformed_netrc_is_told_without_its_content(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError) as caught:
        add_credentials(parse_address("http", "//camera/video"), write_netrc(tmp_path, text))
    assert caught.value.reason == "malformed"
    assert "line" in caught.value.found
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_mask_is_no_secret() -> None:
    assert parse_address("http", f"//camera/x?token={MASK}").safe == f"http://camera/x?token={MASK}"
