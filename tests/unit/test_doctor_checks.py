from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import pytest

from device.bundle import Bundle, open_bundle
from device.contract import Camera, MeterConfig, Power
from device.core.errors import BundleError, BundleReason, MissingDependencyError
from device.core.programs import NOT_THERE, Done
from device.doctor import check
from device.doctor.__main__ import list_probes
from device.doctor.attempt import Attempt
from device.doctor.check import Check, CheckContext, Process, make_context
from device.doctor.checks_cameras import camera_check, judge
from device.doctor.checks_health import check_disk, check_governor, check_heat, check_memory
from device.doctor.checks_meters import check_buses, meter_check, power_check
from device.doctor.checks_runtimes import check_bundle, runtime_check
from device.doctor.checks_service import check_service
from device.doctor.checks_system import check_board, check_processor, check_python, check_system
from device.machine.board import detect_board
from device.meters.battery import TermuxBatteryMeter
from device.meters.plugs import ShellyMeter
from device.meters.pmic import VcgencmdPmicMeter
from device.meters.slow import SlowMeter
from device.sources.v4l2.formats import FrameSize, PixelFormat
from device.sources.v4l2.listing import CameraListing, diagnose_camera
from tests.unit.bundles import make_profile, write_tiny_bundle
from tests.unit.usb_meter import UsbPort

TREES = Path(__file__).parents[1] / "fixtures/sysfs"

PI4_FEATURES = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
PI5_FEATURES = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
)


def answers(**programs: Done) -> Callable[[Sequence[str], float], Done]:
    """Programs by name, with ``-`` as ``_``; the others aren't there."""

    def command(argv: Sequence[str], timeout_s: float) -> Done:
        return programs.get(argv[0].replace("-", "_"), Done(NOT_THERE, "", "No such file or directory"))

    return command


def examine(
    check: Callable[[CheckContext], Iterable[Check]], root: Path, bundle: Bundle | None = None, **changes: object
) -> list[Check]:
    """Looks at a tree."""
    context = make_context(root, bundle, None, root, answers())
    return list(check(context._replace(**changes)))  # type: ignore[arg-type]


def one(rows: Iterable[Check], name: str) -> Check:
    """The row of that name."""
    (row,) = [row for row in rows if row.check == name]
    return row


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a captured tree, to add to."""
    return lambda name: Path(shutil.copytree(TREES / name, tmp_path / name))


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle, whose profile reads these meters and this camera."""

    def make(*meters: MeterConfig, camera: str = "v4l2:0", compatible: tuple[str, ...] = (), arch: str = "") -> Bundle:
        profile = make_profile()
        board = msgspec.structs.replace(profile.board, compatible=compatible, arch=arch or detect_board().machine)
        profile = msgspec.structs.replace(profile, power=Power(meters), camera=Camera(uri=camera), board=board)
        write_tiny_bundle(tmp_path / "bundle", profile)
        return open_bundle(tmp_path / "bundle")

    return make


class TestSystem:
    def test_this_machine_is_what_the_bundle_is_for(self, bundle: Callable[..., Bundle], tmp_path: Path) -> None:
        (row,) = examine(check_board, tmp_path, bundle())
        assert row.verdict == "ok"

    def test_another_board_is_a_warning_and_another_processor_a_failure(self, bundle: Callable[..., Bundle]) -> None:
        made = bundle(compatible=("raspberrypi,5-model-b",))
        assert examine(check_board, TREES / "rpi4-ina219", made)[0].verdict == "warn"
        other = "aarch64" if detect_board().machine == "x86_64" else "x86_64"
        shutil.rmtree(made.root)
        (row,) = examine(check_board, TREES / "rpi4-ina219", bundle(arch=other))
        assert row.verdict == "fail"
        assert "make convert" in row.fix

    @pytest.mark.parametrize(
        ("memory_kb", "part", "rows"),
        [
            # A Zero 2 W of 512 MB, as its kernel reports it, and other boards that claim to be one.
            (426_444, "0xd03", []),
            (217_000, "0xd03", ["board memory"]),
            (426_444, "0xd08", ["board cores"]),
            (217_000, "0xd0b", ["board memory", "board cores"]),
            (8_000_000, "0xd4c", []),
            (None, None, []),
        ],
    )
    def test_memory_and_cores_are_compared_with_the_profile(
        self, bundle: Callable[..., Bundle], tmp_path: Path, memory_kb: int | None, part: str | None, rows: list[str]
    ) -> None:
        made = bundle()
        board = msgspec.structs.replace(made.manifest.profile.board, memory_mb=512, cpu="cortex-a53", title="Zero 2 W")
        shutil.rmtree(made.root)
        write_tiny_bundle(made.root, msgspec.structs.replace(made.manifest.profile, board=board))
        if memory_kb is not None:
            write(tmp_path, "proc/meminfo", f"MemTotal: {memory_kb} kB\nMemFree: 1000 kB\n")
            write(tmp_path, "proc/cpuinfo", f"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n")
        first, *others = examine(check_board, tmp_path, open_bundle(made.root))
        assert first.verdict == "ok"
        assert [row.check for row in others] == rows
        assert all(row.verdict == "warn" and row.fix and "Zero 2 W" in row.finding for row in others)

    @pytest.mark.parametrize(
        ("parts", "words"),
        [(("0xd03", "0xd08"), None), (("0xd05", "0xd0b"), "cortex-a55, cortex-a76, but"), (("0xd05", "0xd4c"), None)],
    )
    def test_cores_of_several_kinds(
        self, bundle: Callable[..., Bundle], tmp_path: Path, parts: tuple[str, ...], words: str | None
    ) -> None:
        made = bundle()
        board = msgspec.structs.replace(made.manifest.profile.board, cpu="cortex-a53")
        shutil.rmtree(made.root)
        write_tiny_bundle(made.root, msgspec.structs.replace(made.manifest.profile, board=board))
        write(tmp_path, "proc/cpuinfo", "\n".join(f"CPU implementer\t: 0x41\nCPU part\t: {part}\n" for part in parts))
        _, *others = examine(check_board, tmp_path, open_bundle(made.root))
        assert [row.finding.startswith(words or "?") for row in others] == ([] if words is None else [True])

    def test_a_32_bit_userland_fails(self, tmp_path: Path) -> None:
        write(tmp_path, "etc/os-release", 'NAME="Raspbian"\nPRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"\n')
        rows = examine(check_system, tmp_path, process=Process.current()._replace(pointer_bits=32))
        assert one(rows, "system").finding.startswith("Raspbian GNU/Linux 12 (bookworm)")
        assert (one(rows, "userland").verdict, one(rows, "userland").fix) == ("fail", "install the 64-bit Raspberry Pi OS")

    @pytest.mark.parametrize(
        ("python", "libc", "verdicts"),
        [
            ((3, 11, 2), ("glibc", "2.36"), ("ok", "ok")),
            ((3, 10, 12), ("glibc", "2.34"), ("fail", "ok")),
            ((3, 14, 0), ("glibc", "2.31"), ("fail", "warn")),
            ((3, 13, 1), ("", ""), ("ok", "fail")),
        ],
    )
    def test_versions(
        self, tmp_path: Path, python: tuple[int, int, int], libc: tuple[str, str], verdicts: tuple[str, str]
    ) -> None:
        rows = examine(check_python, tmp_path, process=Process(64, python, libc, "linux"))
        assert tuple(row.verdict for row in rows) == verdicts
        assert all(bool(row.fix) == (row.verdict != "ok") for row in rows)

    @pytest.mark.parametrize(
        ("features", "words"),
        [
            (PI4_FEATURES, "no int8 dot products"),
            (PI5_FEATURES, "int8 dot products, fp16"),
            ("flags\t\t: fpu sse2 avx2 avx512_vnni\n", "AVX2, AVX-512 VNNI"),
        ],
    )
    def test_processor(self, tmp_path: Path, features: str, words: str) -> None:
        write(tmp_path, "proc/cpuinfo", features)
        (row,) = examine(check_processor, tmp_path)
        assert row.verdict == "ok"
        assert words in row.finding

    def test_processor_that_says_nothing_is_not_ok(self, tmp_path: Path) -> None:
        assert examine(check_processor, tmp_path)[0].verdict == "unsupported"


NOT_INSTALLED = msgspec.json.encode(
    Attempt(
        failure=MissingDependencyError(
            "runtime litert", "a; b can't be imported", expected="c", remedy="pip install it; and that", reason="not_installed"
        ).facts()
    )
).decode()


class TestRuntimes:
    @pytest.mark.parametrize(
        ("done", "verdict", "finding", "fix"),
        [
            (
                Done(0, '{"version":"litert 9","self_test":{"images":3,"max_error":0.0,"tolerance":1.0}}', ""),
                "ok",
                "3 images",
                "",
            ),
            (Done(0, '{"version":"litert 9","self_test":null}', ""), "ok", "not tried", ""),
            (Done(-4, "", ""), "fail", "SIGILL", "for this one"),
            (Done(124, "", "gave no answer within 60 s"), "fail", "no answer", "--self-test"),
            (
                Done(30, f"a library's word\n{NOT_INSTALLED}\n", "INFO: x\n"),
                "fail",
                "runtime litert: a; b can't be imported; expected c",
                "pip install it; and that",
            ),
            (Done(1, "", "Traceback\nValueError: odd\n"), "fail", "ValueError: odd", ""),
        ],
    )
    def test_are_judged_by_how_their_process_ends(
        self, bundle: Callable[..., Bundle], tmp_path: Path, done: Done, verdict: str, finding: str, fix: str
    ) -> None:
        (row,) = examine(runtime_check("litert"), tmp_path, bundle(), command=lambda argv, timeout_s: done)
        assert row.verdict == verdict
        assert finding in row.finding
        assert fix in row.fix

    def test_the_one_that_the_profile_does_not_name_only_warns(self, bundle: Callable[..., Bundle], tmp_path: Path) -> None:
        (row,) = examine(runtime_check("executorch"), tmp_path, bundle(), command=lambda argv, timeout_s: Done(-11, "", ""))
        assert (row.verdict, "SIGSEGV" in row.finding) == ("warn", True)

    @pytest.mark.parametrize(("reason", "verdict"), [("missing", "warn"), ("tampered", "fail")])
    def test_a_bundle_that_is_damaged_fails_and_none_is_a_warning(
        self, tmp_path: Path, reason: BundleReason, verdict: str
    ) -> None:
        error = BundleError("build/x", "is not right", remedy="copy it again", reason=reason)
        (row,) = examine(check_bundle, tmp_path, bundle_error=error)
        assert (row.verdict, row.finding, row.fix) == (verdict, "build/x: is not right", "copy it again")


class TestCameras:
    def test_none_is_a_failure_only_where_the_profile_reads_one(self, bundle: Callable[..., Bundle], tmp_path: Path) -> None:
        assert examine(camera_check("v4l2"), tmp_path)[0].verdict == "unsupported"
        assert examine(camera_check("v4l2"), tmp_path, bundle())[0].verdict == "fail"

    @pytest.mark.parametrize(
        ("camera", "verdict", "finding", "fix"),
        [
            (
                CameraListing(
                    "/dev/video0",
                    "Cam",
                    "uvcvideo",
                    formats=(
                        PixelFormat("MJPG", "", (FrameSize(640, 480, (60.0, 30.0)), FrameSize(1920, 1080, (30.0,)))),
                        PixelFormat("YUYV", "", (FrameSize(640, 480, (30.0,)),)),
                    ),
                ),
                "ok",
                "Cam (uvcvideo): MJPG 1920x1080@30, YUYV 640x480@30",
                "",
            ),
            (
                CameraListing("/dev/video0", "Cam", problem="Permission denied", reason="permission"),
                "fail",
                "Permission denied",
                "usermod -aG video",
            ),
            (CameraListing("/dev/video0", "unicam", "unicam", formats=(PixelFormat("pRAA", ""),)), "ok", "picamera2:0", ""),
            (CameraListing("/dev/video0", "Odd", "odd"), "warn", "lists no formats", "v4l2-ctl"),
        ],
    )
    def test_each_is_judged(self, camera: CameraListing, verdict: str, finding: str, fix: str) -> None:
        row = judge(diagnose_camera(camera), is_wanted=True)
        assert row.verdict == verdict
        assert finding in row.finding
        assert fix in row.fix

    def test_ribbon_cameras_are_those_that_libcamera_lists(self) -> None:
        listing = (
            "Available cameras\n-----------------\n"
            "0 : imx708 [4608x2592 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx708@1a)\n"
            "    Modes: 'SRGGB10_CSI2P' : 1536x864 [120.13 fps - (768, 432)/3072x1728 crop]\n"
        )
        rows = examine(camera_check("picamera2"), TREES / "rpi4-ina219", command=answers(rpicam_hello=Done(0, listing, "")))
        assert one(rows, "camera libcamera") == Check("camera libcamera", "ok", "imx708 (4608x2592 10-bit RGGB)")

    def test_a_loose_cable_is_told_of(self, bundle: Callable[..., Bundle]) -> None:
        old = answers(libcamera_hello=Done(0, "No cameras available!\n", ""))
        rows = examine(camera_check("picamera2"), TREES / "rpi4-ina219", bundle(camera="picamera2:0"), command=old)
        assert one(rows, "camera libcamera").verdict == "fail"
        assert "cable" in one(rows, "camera libcamera").fix

    def test_nothing_is_asked_where_there_is_no_ribbon(self) -> None:
        (row,) = examine(camera_check("picamera2"), TREES / "x86-rapl")
        assert row.verdict == "unsupported"


class TestMeters:
    INA: ClassVar[MeterConfig] = {"kind": "ina2xx", "shunt_ohm": 0.1, "scope": "board"}

    def test_one_that_is_there(self, bundle: Callable[..., Bundle]) -> None:
        made = bundle(self.INA)
        assert examine(meter_check(self.INA), TREES / "rpi4-ina219", made) == [
            Check("meter ina2xx", "ok", "ina219 (hwmon), board, measured")
        ]
        assert examine(power_check(), TREES / "rpi4-ina219", made)[0].verdict == "ok"

    def test_one_that_is_missing_has_the_line_to_add(self, bundle: Callable[..., Bundle]) -> None:
        config: MeterConfig = {"kind": "ina2xx", "shunt_ohm": 0.01, "scope": "board", "address": 0x41}
        (row,) = examine(meter_check(config), TREES / "rpi5", bundle(config))
        assert row.verdict == "warn"
        assert "dtoverlay=i2c-sensor,ina219,addr=0x41,shunt-resistor=10000 " in row.fix
        assert "dtparam=i2c_arm=on" in row.fix
        # The line alone would make a figure of the profile's guess, and call it measured.
        assert "only if 0.01 ohm is printed on the shunt" in row.fix

    def test_no_figure_at_all_is_a_warning(self, bundle: Callable[..., Bundle]) -> None:
        (row,) = examine(power_check(), TREES / "rpi-zero2w", bundle(self.INA))
        assert (row.verdict, row.finding) == ("warn", "no meter: a run has no power figure")

    def test_each_is_opened_once_whoever_asks(self, bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
        # A USB meter can't be opened by two at a time: one of them would call it missing.
        port = UsbPort()
        monkeypatch.setitem(sys.modules, "usb_multimeter", port.library())
        made = bundle({"kind": "fnirsi", "scope": "board"})
        context = make_context(made.root, made, None, made.root, answers())
        probes = [probe for probe in list_probes(context) if probe[0] in ("meter fnirsi", "power")]
        rows = check.examine(context, probes)
        assert [(row.check, row.verdict) for row in rows] == [("meter fnirsi", "ok"), ("power", "ok")]
        assert rows[1].finding == "headline: fnirsi FNB58, board, measured"
        assert port.openings == 1

    def test_one_that_gives_up_by_itself_has_the_time_to(self, bundle: Callable[..., Bundle]) -> None:
        slow: dict[str, type[SlowMeter]] = {
            "termux_battery": TermuxBatteryMeter,
            "shelly": ShellyMeter,
            "pmic_vcgencmd": VcgencmdPmicMeter,
        }
        made = bundle(*({"kind": kind, "address": "http://plug" if kind == "shelly" else None} for kind in slow))
        context = make_context(made.root, made, None, made.root, answers())
        limits_s = {name: limit_s for name, _, limit_s in list_probes(context)}
        for kind, meter in slow.items():
            assert limits_s[f"meter {kind}"] >= meter.timeout_s + 5.0
            assert limits_s["power"] >= limits_s[f"meter {kind}"]

    def test_without_a_bundle_the_chips_that_are_there_are_named(self) -> None:
        (row,) = examine(power_check(), TREES / "rpi4-ina219")
        assert "ina219" in row.finding
        assert "shunt_ohm" in row.fix

    def test_buses(self, tree: Callable[[str], Path], bundle: Callable[..., Bundle]) -> None:
        root = tree("rpi4-ina219")
        made = bundle({"kind": "ina226", "shunt_ohm": 0.1})
        off = one(examine(check_buses, root, made), "bus i2c")
        assert (off.verdict, "dtparam=i2c_arm=on" in off.fix) == ("warn", True)
        write(root, "dev/i2c-1", "")
        assert one(examine(check_buses, root, made), "bus i2c").verdict == "ok"

    @pytest.mark.unprivileged
    def test_a_bus_that_is_locked_names_the_group(self, tree: Callable[[str], Path]) -> None:
        root = tree("rpi4-ina219")
        write(root, "dev/i2c-1", "")
        (root / "dev/i2c-1").chmod(0)
        assert "usermod -aG i2c" in one(examine(check_buses, root), "bus i2c").fix


class Usage(NamedTuple):
    """Of a disk, in bytes."""

    total: int
    used: int
    free: int


class TestHealth:
    @pytest.mark.parametrize(("name", "verdict"), [("rpi4-ina219", "ok"), ("x86-rapl", "ok"), ("", "unsupported")])
    def test_governor(self, tmp_path: Path, name: str, verdict: str) -> None:
        assert examine(check_governor, TREES / name if name else tmp_path)[0].verdict == verdict

    @pytest.mark.parametrize(
        ("word", "verdict", "finding", "fix"),
        [
            ("0", "ok", "none", ""),
            ("50005", "fail", "now: under voltage, throttled", "supply"),
            ("50000", "warn", "since the start: under voltage, throttled", "supply"),
            ("80008", "warn", "now: soft temperature limit", "fan"),
        ],
    )
    def test_throttling(self, tree: Callable[[str], Path], word: str, verdict: str, finding: str, fix: str) -> None:
        root = tree("rpi4-ina219")
        (file,) = (root / "sys/devices/platform").glob("*/*firmware*/get_throttled")
        file.write_text(word + "\n")
        row = one(examine(check_heat, root), "throttling")
        assert row.verdict == verdict
        assert finding in row.finding
        assert fix in row.fix

    def test_what_a_board_can_not_tell_is_said(self) -> None:
        assert "this board doesn't report under voltage" in one(examine(check_heat, TREES / "rpi-zero2w"), "throttling").finding

    def test_heat(self, tree: Callable[[str], Path]) -> None:
        root = tree("rpi4-ina219")
        write(root, "sys/class/thermal/thermal_zone0/temp", "81000\n")
        assert one(examine(check_heat, root), "temperature").verdict == "warn"

    def test_memory(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/meminfo", "MemTotal: 427000 kB\nMemAvailable: 80000 kB\nCmaTotal: 65536 kB\nCmaFree: 10240 kB\n")
        write(tmp_path, "proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/var/swap file 102396 51200 -2\n")
        rows = examine(check_memory, tmp_path)
        assert [(row.check, row.verdict) for row in rows] == [
            ("memory", "warn"),
            ("memory for cameras", "warn"),
            ("swap", "warn"),
        ]
        assert "10 of 67 MB" in one(rows, "memory for cameras").finding
        assert "50 MB are swapped out to /var/swap" in one(rows, "swap").finding

    def test_memory_that_is_enough(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            "proc/meminfo",
            "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\nCmaTotal: 524288 kB\nCmaFree: 500000 kB\n",
        )
        write(tmp_path, "proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 2097136 2048 100\n")
        assert {row.verdict for row in examine(check_memory, tmp_path)} == {"ok"}

    @pytest.mark.parametrize(
        ("free_mb", "options", "verdicts"),
        [
            (9000, "rw,noatime", ("ok", "ok")),
            (300, "rw", ("warn", "ok")),
            (10, "rw", ("fail", "ok")),
            (9000, "ro", ("ok", "fail")),
            # What is mounted later lies on top.
            (9000, "rw 0 0\n/dev/mmcblk0p2 / ext4 ro", ("ok", "fail")),
        ],
    )
    def test_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mb: int, options: str, verdicts: tuple[str, str]
    ) -> None:
        usage = Usage(10**10, 0, free_mb * 10**6)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        write(tmp_path, "proc/mounts", f"/dev/mmcblk0p2 / ext4 {options} 0 0\ntmpfs /run tmpfs rw 0 0\n")
        rows = examine(check_disk, tmp_path, telemetry=tmp_path / "not/yet/there")
        assert tuple(row.verdict for row in rows) == verdicts
        assert "SD card" in rows[0].finding


class TestService:
    def test_nothing_to_say_without_systemd_or_without_a_unit(self, tmp_path: Path) -> None:
        assert examine(check_service, tmp_path)[0].verdict == "unsupported"
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        assert examine(check_service, tmp_path)[0].finding == "not installed"

    @pytest.mark.parametrize(
        ("out", "verdict"),
        [
            ("ghostwatt@rpi4.service loaded active running ghostwatt on rpi4\n", "ok"),
            ("ghostwatt@rpi4.service loaded failed failed ghostwatt on rpi4\n", "fail"),
            ("ghostwatt@rpi4.service loaded inactive dead ghostwatt on rpi4\n", "warn"),
            ("", "warn"),
        ],
    )
    def test_of_an_installed_one(self, tmp_path: Path, out: str, verdict: str) -> None:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        write(tmp_path, "etc/systemd/system/ghostwatt@.service", "[Service]\n")
        (row,) = examine(check_service, tmp_path, command=answers(systemctl=Done(0, out, "")))
        assert row.verdict == verdict
        assert bool(row.fix) == (verdict != "ok")
