from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.profiles import FOLDER, SCHEMA_NAME, encode_schema, json_schema, load_profile, profile_names
from device.contract import MANIFEST_SCHEMA, Profile, manifest_schema_for
from device.core.errors import ProfileError
from device.meters.meter import Meter
from device.meters.registry import METERS

pytestmark = pytest.mark.host

BASE = """\
name: base
description: a board
board:
  name: base
  title: Board
  arch: aarch64
  cpu: cortex-a72
  cores: 4
  memory_mb: 1024
model:
  name: ghostnet_100
  weights: clothing
runtime:
  name: litert
  threads: 3
camera:
  uri: "picamera2:0"
  rate_fps: 30
power:
  meters:
    - kind: ina2xx
      shunt_ohm: 0.1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def refusal(folder: Path, old: str, new: str) -> str:
    assert old in BASE
    (folder / "base.yaml").write_text(BASE.replace(old, new))
    with pytest.raises(ProfileError) as caught:
        load_profile("base", folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_sound(name: str) -> None:
    profile = load_profile(name).profile
    assert profile.name == name
    assert profile.runtime.threads <= profile.board.cores
    # What is in a manifest must come back as it was.
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


def test_the_promised_profiles_are_there() -> None:
    promised = {"host", "rpi3", "rpi4", "rpi5", "rpi-zero2w", "android-arm64", "rpi4-eco", "rpi5-max"}
    assert promised <= set(profile_names())


def test_schema_for_editors_is_current() -> None:
    current = (FOLDER / SCHEMA_NAME).read_bytes()
    assert current == encode_schema(), "run: python -m converter --write-schema"


def test_an_operating_point_inherits_and_overrides(folder: Path) -> None:
    (folder / "eco.yaml").write_text("name: eco\ndescription: slow\ninherits: base\nruntime:\n  threads: 1\n")
    base, eco = load_profile("base", folder).profile, load_profile("eco", folder).profile
    assert eco.runtime.threads == 1
    assert eco.runtime.name == "litert"
    assert eco.board == base.board
    assert eco.power == base.power


def test_a_threshold_is_inherited_and_may_be_taken_away(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("weights: clothing", "weights: clothing\n  unknown_below: 0.5"))
    for name, below in (
        ("same", ""),
        ("strict", "model:\n  unknown_below: 0.9\n"),
        ("never", "model:\n  unknown_below: null\n"),
    ):
        (folder / f"{name}.yaml").write_text(f"name: {name}\ndescription: x\ninherits: base\n{below}")
    found = [load_profile(name, folder).profile.model.unknown_below for name in ("same", "strict", "never")]
    assert found == [0.5, 0.9, None]


def test_an_unknown_key_is_refused_with_its_place_and_the_near_one(folder: Path) -> None:
    assert refusal(folder, "rate_fps", "rate_fsp").startswith(
        "base.yaml:18 camera.rate_fsp: is not a key; expected did you mean 'rate_fps'?"
    )


def test_an_unknown_key_in_a_list_is_refused(folder: Path) -> None:
    assert "base.yaml:22 power.meters[0].shunt_ohms" in refusal(folder, "shunt_ohm", "shunt_ohms")


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ("rate_fps: 30", "rate_fps: 30fps", "base.yaml:18 camera.rate_fps: '30fps'", "a bare number of frames a second"),
        ("memory_mb: 1024", "memory_mb: 1 GB", "base.yaml:9 board.memory_mb: '1 GB'", "a bare number of megabytes"),
        ("shunt_ohm: 0.1", "shunt_ohm: -1", "base.yaml:22 power.meters[0].shunt_ohm: -1", "> 0.0"),
        ("threads: 3", "threads: 0", "base.yaml:15 runtime.threads: 0", ">= 1"),
        ("name: litert", "name: litertt", "base.yaml:14 runtime.name: 'litertt'", "litertt"),
        ("arch: aarch64", "arch: armv7l", "base.yaml:6 board.arch: 'armv7l'", "armv7l"),
        *(
            (
                "weights: clothing",
                f"weights: clothing\n  unknown_below: {text}",
                f"base.yaml:13 model.unknown_below: {found}",
                hint,
            )
            for text, found, hint in [
                ("1.5", "1.5", "<= 1.0"),
                ("-0.1", "-0.1", ">= 0.0"),
                (".nan", "nan", ">= 0.0"),
                ("50%", "'50%'", "float"),
                ("yes", "'yes'", "float"),
                ("true", "True", "float"),
            ]
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_was_expected(
    folder: Path, old: str, new: str, where: str, hint: str
) -> None:
    message = refusal(folder, old, new)
    assert message.startswith(where)
    assert hint in message


def test_half_a_limit_on_heat_is_refused(folder: Path) -> None:
    message = refusal(folder, "runtime:\n", "limits:\n  slow_above_c: 70\nruntime:\n")
    assert message.startswith("base.yaml:13 limits: ")
    assert "both slow_above_c and slow_rate_fps, or neither" in message


def test_a_missing_section_is_named(folder: Path) -> None:
    assert "camera" in refusal(folder, 'camera:\n  uri: "picamera2:0"\n  rate_fps: 30\n', "")


def test_more_threads_than_cores_are_refused(folder: Path) -> None:
    assert refusal(folder, "threads: 3", "threads: 5").startswith("base.yaml:15 runtime.threads: 5; expected at most 4")


def test_an_inherited_contradiction_points_at_the_file_that_made_it(folder: Path) -> None:
    (folder / "max.yaml").write_text("name: max\ndescription: fast\ninherits: base\nruntime:\n  threads: 9\n")
    with pytest.raises(ProfileError, match=r"max\.yaml:5 runtime\.threads: 9"):
        load_profile("max", folder)


def test_an_unknown_meter_lists_the_known(folder: Path) -> None:
    assert "did you mean 'ina2xx'?" in refusal(folder, "kind: ina2xx", "kind: ina2x")


def test_a_key_that_a_meter_does_not_take_is_refused_with_its_line(folder: Path) -> None:
    message = refusal(folder, "shunt_ohm: 0.1", "shunt_ohm: 0.1\n      channel: 2")
    assert message.startswith("base.yaml:23 power.meters[0].channel: is no key of ina2xx; expected (there are: address, bus")
    message = refusal(folder, "kind: ina2xx", "kind: rapl")
    assert message.startswith("base.yaml:22 power.meters[0].shunt_ohm: is no key of rapl; expected no key beside kind")


@pytest.mark.parametrize(
    ("kind", "key"), [("ina219", "shunt_ohm"), ("ina3221", "shunt_ohm"), ("shelly", "address"), ("tasmota", "address")]
)
def test_what_a_meter_needs_is_never_guessed(folder: Path, kind: str, key: str) -> None:
    message = refusal(folder, "kind: ina2xx\n      shunt_ohm: 0.1", f"kind: {kind}")
    assert message.startswith(f"base.yaml:21 power.meters[0].kind: {kind} without {key}")


def test_an_address_is_a_number_on_a_bus_or_a_word(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("shunt_ohm: 0.1", "shunt_ohm: 0.1\n      address: 0x41\n      bus: 1"))
    (meter,) = load_profile("base", folder).profile.power.meters
    assert (meter["address"], meter["bus"]) == (0x41, 1)
    assert "base.yaml:23 power.meters[0].address: 300" in refusal(
        folder, "shunt_ohm: 0.1", "shunt_ohm: 0.1\n      address: 300"
    )
    (folder / "base.yaml").write_text(
        BASE.replace("kind: ina2xx\n      shunt_ohm: 0.1", 'kind: shelly\n      address: "http://plug.local"')
    )
    (meter,) = load_profile("base", folder).profile.power.meters
    assert meter["address"] == "http://plug.local"


def test_a_circle_is_refused(folder: Path) -> None:
    (folder / "a.yaml").write_text("inherits: b\n")
    (folder / "b.yaml").write_text("inherits: a\n")
    with pytest.raises(ProfileError, match="a -> b -> a"):
        load_profile("a", folder)


def test_a_missing_parent_is_told_in_the_heirs_file(folder: Path) -> None:
    (folder / "eco.yaml").write_text("inherits: bas\n")
    with pytest.raises(ProfileError, match=r"eco\.yaml inherits: .*did you mean 'base'"):
        load_profile("eco", folder)


def test_a_name_that_is_not_the_files_is_refused(folder: Path) -> None:
    assert "expected base" in refusal(folder, "name: base\ndesc", "name: bass\ndesc")


def test_a_key_given_twice_is_refused(folder: Path) -> None:
    assert "base.yaml:3" in refusal(folder, "description: a board\n", "description: a board\ndescription: again\n")


def test_broken_yaml_points_at_its_line(folder: Path) -> None:
    assert refusal(folder, "board:\n", "board: [\n").startswith("base.yaml:")


def test_an_unknown_profile_lists_the_known(folder: Path) -> None:
    with pytest.raises(ProfileError, match="did you mean 'base'"):
        load_profile("bsae", folder)


@given(st.text(max_size=300))
def test_junk_never_gives_anything_but_a_profile_error(tmp_path_factory: pytest.TempPathFactory, junk: str) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "junk.yaml").write_text(junk, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ProfileError):
        load_profile("junk", folder)


@pytest.mark.parametrize(("word", "value"), [("off", "off"), ("fast", "fast"), ('"off"', "off")])
def test_off_is_a_word(folder: Path, word: str, value: str) -> None:
    (folder / "base.yaml").write_text(
        BASE.replace("  rate_fps: 30", f"  picamera2:\n    noise_reduction: {word}\n    hflip: true")
    )
    camera = load_profile("base", folder).profile.camera
    assert camera.picamera2["noise_reduction"] == value
    assert camera.picamera2["hflip"] is True


def test_a_board_may_have_several_cameras(folder: Path) -> None:
    text = BASE.replace('uri: "picamera2:0"', "uri: [picamera2:0, v4l2:name=Door]")
    (folder / "base.yaml").write_text(text)
    profile = load_profile("base", folder).profile
    assert profile.camera.uris == ("picamera2:0", "v4l2:name=Door")
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


@pytest.mark.parametrize(
    ("new", "parts"),
    [
        ('uri: "picamera:0"', ("base.yaml:17 camera.uri", "did you mean 'picamera2'?")),
        ("uri: [picamera2:0, picamera2:0]", ("base.yaml:17 camera.uri", "names a camera twice")),
        ("uri: []", ("base.yaml:17 camera.uri",)),
        ("uri: picamera2:0\n  backoff: {first_s: 5, max_s: 1}", ("camera.backoff.max_s: 1", "at least first_s, 5")),
        ("uri: picamera2:0\n  picamera2: {focus: manual}", ("camera.picamera2.focus", "lens_position together")),
        ("uri: picamera2:0\n  picamera2: {lens_position: 2}", ("camera.picamera2", "lens_position together")),
        ("uri: picamera2:0\n  picamera2: {hflipp: true}", ("camera.picamera2.hflipp", "did you mean 'hflip'?")),
        ("uri: picamera2:0\n  rotate_deg: 45", ("camera.rotate_deg: 45",)),
    ],
)
def test_a_camera_that_makes_no_sense_is_refused(folder: Path, new: str, parts: tuple[str, ...]) -> None:
    message = refusal(folder, 'uri: "picamera2:0"', new)
    assert all(part in message for part in parts), message


OUTSIDE_METER = """
from typing import Annotated
import msgspec
from device.meters.meter import Meter, MeterOptions

class Options(MeterOptions, frozen=True, kw_only=True):
    port: Annotated[int, msgspec.Meta(ge=0, description="number of the serial port")]
    rate_hz: float = 1.0

class SerialMeter(Meter):
    Options = Options
"""


@pytest.fixture
def outsider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of someone else's with a meter ``serial``."""
    site = tmp_path / "site"
    info = site / "serial_meter-1.dist-info"
    info.mkdir(parents=True)
    (site / "serial_meter.py").write_text(OUTSIDE_METER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: serial-meter\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ghostwatt.meters]\nserial = serial_meter:SerialMeter\n")
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("serial_meter", None)


@pytest.mark.usefixtures("outsider")
def test_a_meter_from_outside_is_checked_against_its_own_options(folder: Path) -> None:
    good = BASE.replace("kind: ina2xx\n      shunt_ohm: 0.1", "kind: serial\n      port: 3")
    (folder / "base.yaml").write_text(good)
    profile = load_profile("base", folder).profile
    assert profile.power.meters == ({"kind": "serial", "port": 3},)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
    for keys, parts in {
        "prot: 3": ("base.yaml:22 power.meters[0].prot: is no key of serial", "did you mean 'port'?"),
        "port: -1": ("base.yaml:22 power.meters[0].port: -1", ">= 0"),
        "rate_hz: 2": ("base.yaml:21 power.meters[0].kind: serial without port", "number of the serial port"),
        "port: 3\n      rate_hz: fast": ("base.yaml:23 power.meters[0].rate_hz: 'fast'", "a bare number of hertz"),
    }.items():
        message = refusal(folder, "kind: ina2xx\n      shunt_ohm: 0.1", f"kind: serial\n      {keys}")
        assert all(part in message for part in parts), message


def test_a_meter_without_a_kind_is_refused(folder: Path) -> None:
    message = refusal(folder, "kind: ina2xx\n      shunt_ohm: 0.1", "shunt_ohm: 0.1")
    assert "power" in message
    assert "a kind for each of meters" in message


def meter_branches() -> dict[str, dict[str, Any]]:
    """Kind -> what the editors' schema says about a meter of this kind."""
    branches = json_schema()["$defs"]["Power"]["properties"]["meters"]["items"]["anyOf"]
    return {branch["properties"]["kind"]["const"]: branch for branch in branches if "const" in branch["properties"]["kind"]}


def test_editors_know_the_keys_of_every_kind_of_meter() -> None:
    branches = meter_branches()
    assert set(branches) == set(METERS.own_names())
    for kind, branch in branches.items():
        plugin: type[Meter] = METERS.load(kind)
        assert set(branch["properties"]) == {"kind", *plugin.Options.__struct_fields__}
        assert branch["additionalProperties"] is False
    assert "printed on the shunt" in str(branches["ina219"]["properties"]["shunt_ohm"])


@pytest.mark.parametrize("name", profile_names())
def test_the_schema_takes_the_meters_of_the_shipped_profiles(name: str) -> None:
    branches = meter_branches()
    for meter in load_profile(name).profile.power.meters:
        assert set(meter) <= set(branches[meter["kind"]]["properties"])


SINKS = """\
sinks:
  - kind: telemetry
    path: /var/lib/ghostwatt/telemetry.sqlite
  - kind: webhook
    url: https://house/events
    retries: 3
"""


def load_with_sinks(folder: Path, sinks: str) -> Profile:
    (folder / "base.yaml").write_text(BASE + sinks)
    return load_profile("base", folder).profile


def test_a_profile_may_name_sinks_and_without_any_the_manifest_has_no_such_key(folder: Path) -> None:
    plain = load_profile("base", folder).profile
    assert b"sinks" not in msgspec.json.encode(plain)
    assert manifest_schema_for(plain) == 3
    profile = load_with_sinks(folder, SINKS)
    assert [sink["kind"] for sink in profile.wanted_sinks] == ["telemetry", "webhook"]
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
    assert manifest_schema_for(profile) == MANIFEST_SCHEMA


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: webhook", "kind: webhok", "sinks[1].kind: 'webhok'; expected did you mean 'webhook'?"),
        ("retries: 3", "retrys: 3", "sinks[1].retrys: is no key of webhook; expected did you mean 'retries'?"),
        ("retries: 3", "retries: many", "sinks[1].retries: 'many'; expected"),
        ("    url: https://house/events\n", "", "sinks[1].kind: webhook without url"),
    ],
)
def test_a_sink_that_makes_no_sense_is_refused_with_its_line(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_with_sinks(folder, SINKS.replace(old, new))
    place, _, message = str(caught.value).partition(" ")
    assert place.startswith("base.yaml:2")
    assert message.startswith(expected)


def test_a_sink_needs_a_kind(folder: Path) -> None:
    with pytest.raises(ProfileError, match="a kind for each of sinks"):
        load_with_sinks(folder, "sinks:\n  - url: https://house/events\n")
