"""General commands to the firmware: the message's layout, refusals, and the program that does the same."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.core.errors import MeterError
from device.machine import vcio
from device.machine.vcio import Mailbox, VcgencmdProgram
from tests.unit.firmware import FAILURE, SUCCESS, firmware_ioctl

TREE = Path(__file__).parents[1] / "fixtures" / "sysfs" / "rpi5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREE, tmp_path / "root"))


def test_a_command_gets_its_answer(root: Path) -> None:
    assert Mailbox(root, firmware_ioctl).gencmd("get_throttled") == "throttled=0x80008"


def test_the_node_for_general_commands_goes_first_and_the_other_will_do(root: Path) -> None:
    (root / "dev/vcio").write_text("")
    opened: list[str] = []

    def record(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
        opened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        return firmware_ioctl(descriptor, request, message, mutate)

    mailbox = Mailbox(root, record)
    mailbox.gencmd("get_throttled")
    (root / "dev/vcio_gencmd").unlink()
    mailbox.gencmd("get_throttled")
    assert opened == ["vcio_gencmd", "vcio"]


def test_nothing_stays_open_even_after_a_failure(root: Path) -> None:
    def fail(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(MeterError, match="Invalid argument"):
            Mailbox(root, fail).gencmd("get_throttled")
        Mailbox(root, firmware_ioctl).gencmd("get_throttled")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_node_that_may_not_be_opened_names_the_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("device.machine.vcio.os.open", refuse)
    with pytest.raises(MeterError, match="group video") as caught:
        Mailbox(root, firmware_ioctl).gencmd("get_throttled")
    assert caught.value.reason == "permission"


def test_a_machine_without_a_mailbox_is_missing_it(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="vcio") as caught:
        Mailbox(tmp_path, firmware_ioctl).gencmd("get_throttled")
    assert caught.value.reason == "missing"


def test_a_file_that_is_no_device_is_refused_by_the_kernel_itself(root: Path) -> None:
    with pytest.raises(MeterError, match="refused 'get_throttled'") as caught:
        Mailbox(root).gencmd("get_throttled")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("way", ["mailbox", "program"])
def test_a_command_that_the_firmware_does_not_know_is_missing(root: Path, way: str) -> None:
    firmware = Mailbox(root, firmware_ioctl) if way == "mailbox" else VcgencmdProgram(root)
    with pytest.raises(MeterError, match="Command not registered") as caught:
        firmware.gencmd("pmic_read_adcs")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize(("status", "text"), [(0, b"throttled=0x0"), (FAILURE, b"x"), (SUCCESS, b"\xff\xfe"), (SUCCESS, b"")])
def test_a_reply_that_is_none_is_malformed(root: Path, status: int, text: bytes) -> None:
    def reply(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
        struct.pack_into("=I", message, 4, status)
        message[24:-4] = (text or b"x" * 4096).ljust(len(message) - 28, b"\0")
        return 0

    with pytest.raises(MeterError) as caught:
        Mailbox(root, reply).gencmd("get_throttled")
    assert caught.value.reason == "malformed"


@given(junk=st.binary(max_size=64), status=st.sampled_from([0, SUCCESS, FAILURE]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_junk_is_text_or_one_line_of_an_error(root: Path, junk: bytes, status: int) -> None:
    def reply(descriptor: int, request: int, message: bytearray, mutate: bool) -> int:
        struct.pack_into("=I", message, 4, status)
        message[24:-4] = junk.ljust(len(message) - 28, b"\0")
        return 0

    try:
        answer = Mailbox(root, reply).gencmd("get_throttled")
    except MeterError as error:
        answer = str(error).replace("\n", "a line too many \0")
    assert "\0" not in answer


@pytest.mark.parametrize("command", ["x" * 4096, "get\0throttled"])
def test_what_is_no_command_is_never_sent(root: Path, command: str) -> None:
    with pytest.raises(ValueError, match="not a valid command"):
        Mailbox(root, firmware_ioctl).gencmd(command)


def test_the_program_gives_what_the_mailbox_gives(root: Path) -> None:
    for command in ("get_throttled", "pmic_read_adc"):
        assert VcgencmdProgram(root).gencmd(command) == Mailbox(root, firmware_ioctl).gencmd(command)


def test_a_program_that_may_not_open_the_device_names_the_group(root: Path) -> None:
    (root / "dev/vcio_gencmd").unlink()
    with pytest.raises(MeterError, match="group video") as caught:
        VcgencmdProgram(root).gencmd("get_throttled")
    assert caught.value.reason == "permission"


@pytest.mark.parametrize(
    ("script", "match", "reason"),
    [
        ("#!/bin/sh\necho oops; exit 3\n", "exited with 3", "malformed"),
        ("#!/bin/sh\nprintf '\\377'\n", "ASCII", "malformed"),
        ("#!/nonexistent\n", "can't be run", "missing"),
        ("#!/bin/sh\nsleep 9\n", "no answer", "malformed"),
    ],
)
def test_a_program_that_fails_says_how(
    root: Path, monkeypatch: pytest.MonkeyPatch, script: str, match: str, reason: str
) -> None:
    monkeypatch.setattr(vcio, "PROGRAM_TIMEOUT_S", 0.3)
    (root / "usr/bin/vcgencmd").write_text(script)
    with pytest.raises(MeterError, match=match) as caught:
        VcgencmdProgram(root).gencmd("get_throttled")
    assert caught.value.reason == reason


def test_a_program_that_is_not_there_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="raspi-utils-core") as caught:
        VcgencmdProgram(tmp_path).gencmd("get_throttled")
    assert caught.value.reason == "missing"
