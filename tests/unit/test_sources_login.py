"""Answers to servers that ask for a password, by the examples of the standards."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.net.login import make_login, parse_challenges


def answer(*headers: str, method: str = "GET", nonce: str = "") -> dict[str, str]:
    """What is sent for the user and the password of the standards' examples, by its names."""
    login = make_login(
        parse_challenges(headers), "Mufasa", "Circle of Life", method=method, uri="/dir/index.html", new_nonce=lambda: nonce
    )
    assert login is not None
    assert login.startswith("Digest ")
    return {name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', login)}


# RFC 7616, section 3.9.1.
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OWN_NONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
EXAMPLE = f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=%s, nonce="{NONCE}", opaque="{OPAQUE}"'


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("md5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_example_of_rfc_7616(algorithm: str, response: str) -> None:
    sent = answer(EXAMPLE % algorithm, nonce=OWN_NONCE)
    assert sent["response"] == response
    assert sent["algorithm"] == algorithm
    assert (sent["username"], sent["realm"], sent["uri"]) == ("Mufasa", "http-auth@example.org", "/dir/index.html")
    assert (sent["nonce"], sent["cnonce"], sent["opaque"], sent["qop"], sent["nc"]) == (
        NONCE, OWN_NONCE, OPAQUE, "auth", "00000001",
    )  # fmt: skip


def test_without_qop_as_rtsp_servers_ask() -> None:
    # RFC 2069, section 2.4, as its erratum 749 corrects it.
    nonce, opaque = "dcd98b7102dd2f0e8b11d0f600bfb0c093", "5ccc069c403ebaf9f0171e9517f40e41"
    header = f'Digest realm="testrealm@host.com", nonce="{nonce}", opaque="{opaque}"'
    login = make_login(parse_challenges([header]), "Mufasa", "CircleOfLife", method="GET", uri="/dir/index.html")
    assert login is not None
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in login
    assert "qop" not in login
    assert "cnonce" not in login
    assert answer(header)["response"] != answer(header, method="DESCRIBE")["response"]


def test_basic() -> None:
    # RFC 7617, section 2.
    login = make_login(parse_challenges(['Basic realm="WallyWorld"']), "Aladdin", "open sesame", method="GET", uri="/")
    assert login == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


@pytest.mark.parametrize(
    "headers",
    [
        ['Basic realm="a"', EXAMPLE % "MD5", EXAMPLE % "SHA-256"],
        [f'Basic realm="a, b", {EXAMPLE % "MD5"}, {EXAMPLE % "SHA-256"}'],
        [EXAMPLE % "SHA-512-256", EXAMPLE % "SHA-256", "Negotiate"],
    ],
)
def test_strongest_that_is_known_is_taken(headers: list[str]) -> None:
    assert answer(*headers)["algorithm"] == "SHA-256"


@pytest.mark.parametrize("header", ["Negotiate", "Bearer realm=x", "", EXAMPLE % "MD5-sess", "Digest"])
def test_what_is_not_known_is_not_answered(header: str) -> None:
    login = make_login(parse_challenges([header]), "me", "secret", method="GET", uri="/")
    assert login is None or "algorithm" not in header


def test_quotes_within_quotes() -> None:
    challenge = parse_challenges([r'Digest realm="the \"house\"", nonce=abc'])[0]
    assert challenge.items == {"realm": 'the "house"', "nonce": "abc"}
    login = make_login([challenge], "me", "secret", method="GET", uri="/")
    assert login is not None
    assert r'realm="the \"house\""' in login


@given(st.binary(max_size=60), st.text(min_size=1), st.text(min_size=1))
def test_any_header_can_be_read_and_no_digest_shows_the_password(sent: bytes, user: str, password: str) -> None:
    header, secret = sent.decode("latin-1"), f"Kanarienvogel{password}"
    challenges = parse_challenges([header, f'Digest realm="{header}", nonce="1"'])
    login = make_login(challenges, user, secret, method="GET", uri="/")
    assert login is None or b"Kanarienvogel" not in login.encode("latin-1")
