"""From a URI to a source, or to an error that says what was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.core.errors import UsageError
from device.protocols import FrameSource
from device.sources.base import SourceOptions
from device.sources.registry import SOURCES
from device.sources.synthetic import SyntheticSource
from device.sources.uri import make_opener, open_source, split_uri


@given(st.from_regex(r"[a-z][a-z0-9+.-]{0,9}", fullmatch=True), st.text(max_size=30))
def test_split_gives_back_what_was_joined(scheme: str, rest: str) -> None:
    assert split_uri(f"{scheme}:{rest}") == (scheme, rest)


@given(st.text(max_size=30))
def test_any_text_is_split_or_refused(uri: str) -> None:
    try:
        scheme, rest = split_uri(uri)
    except UsageError:
        return
    assert f"{scheme}:{rest}".lower() == uri.lower()


@pytest.mark.parametrize("uri", ["", "photos", "/home/pi/photos", ":x", "ima ges:x", "1:x"])
def test_what_has_no_kind_is_refused_with_the_grammar(uri: str) -> None:
    with pytest.raises(UsageError, match="KIND:REST") as caught:
        open_source(uri)
    assert caught.value.reason == "malformed_uri"


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'images'") as caught:
        open_source("image:photos")
    assert caught.value.reason == "unknown_source"
    assert caught.value.exit_code == 2


@given(st.text(max_size=25))
def test_any_synthetic_uri_opens_or_is_refused(rest: str) -> None:
    try:
        open_source(f"synthetic:{rest}", SourceOptions(width_px=64, height_px=48)).close()
    except UsageError:
        return


@given(
    width=st.integers(1, 64),
    height=st.integers(1, 64),
    rate=st.none() | st.integers(1, 1000),
    frames=st.none() | st.integers(0, 5),
)
def test_a_synthetic_uri_is_taken_at_its_word(width: int, height: int, rate: int | None, frames: int | None) -> None:
    uri = f"synthetic:{width}x{height}" + (f"@{rate}" if rate else "") + ("" if frames is None else f"#{frames}")
    with open_source(uri) as source:
        assert source.spec.uri == uri
        assert source.spec.rate_fps == rate
        frame = source.read(1.0)
        if frames == 0:
            assert frame is None
        else:
            assert frame is not None
            assert frame.pixels.shape == (height, width, 3)


@pytest.mark.parametrize(
    "rest", ["640", "640x", "x480", "640x480@", "640x480@-1", "0x480", "640x9999", "640x480@0", "64x48@1001"]
)
def test_sizes_and_rates_that_make_no_sense_are_refused(rest: str) -> None:
    with pytest.raises(UsageError):
        open_source(f"synthetic:{rest}")


def test_a_synthetic_size_left_out_is_the_options() -> None:
    frame = SyntheticSource.from_uri("", SourceOptions(width_px=32, height_px=24)).read(1.0)
    assert frame is not None
    assert frame.pixels.shape == (24, 32, 3)


def test_synthetic_frames_need_no_opencv() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from device.sources.uri import open_source\n"
        "assert open_source('synthetic:64x48').read(1.0).pixels.shape == (48, 64, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_opencv_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from device.sources.uri import open_source\n"
        "from device.core.errors import MissingDependencyError\n"
        "try:\n    open_source('images:photos')\n"
        "except MissingDependencyError as error:\n    assert 'ghostwatt[video]' in str(error), error\n"
        "else:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_opener_opens_anew_each_time() -> None:
    opener = make_opener("synthetic:64x48#1")
    for _ in range(2):
        with opener() as source:
            frame = source.read(1.0)
            assert frame is not None
            assert frame.index == 0


def test_an_opener_of_a_source_that_remembers_is_the_source_class_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, SourceOptions]] = []

    class Remembering(SyntheticSource):
        @classmethod
        def opener(cls, rest: str, options: SourceOptions) -> Callable[[], FrameSource]:
            asked.append((rest, options))
            widths = iter((64, 32))
            return lambda: cls(next(widths), 48, options=options)

    monkeypatch.setattr(SOURCES, "load", lambda name: Remembering)
    options = SourceOptions(width_px=99)
    opener = make_opener("camera:one", options)
    assert asked == [("one", options)]
    assert [opener().spec.uri for _ in range(2)] == ["synthetic:64x48", "synthetic:32x48"]
    assert open_source("camera:one", options).spec.uri == "synthetic:64x48"


@pytest.mark.parametrize("uri", ["photos", "image:photos"])
def test_an_opener_of_nothing_known_is_refused_before_it_is_called(uri: str) -> None:
    with pytest.raises(UsageError):
        make_opener(uri)
