"""What users touch stays what it is while the code behind it moves; see this package's docstring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.surface import collect_device
from tests.surface.commands import collect
from tests.surface.golden import Golden


def need_host() -> None:
    """Skips where the host's packages are absent, as tests/convert does."""
    if not os.environ.get("CI"):
        pytest.importorskip("torch", reason="the host's packages are not installed: make setup")


def test_flags_of_the_boards_commands(golden: Golden) -> None:
    golden.check("commands_device", collect("device"))


@pytest.mark.host
def test_flags_of_the_hosts_commands(golden: Golden) -> None:
    need_host()
    golden.check("commands_converter", collect("converter"))


def test_exit_codes_and_reasons(golden: Golden) -> None:
    golden.check("errors", collect_device.error_facts())


def test_names(golden: Golden) -> None:
    golden.check("names_device", collect_device.name_facts())


def test_what_an_installation_leaves_on_a_board(golden: Golden, tmp_path: Path) -> None:
    golden.check("service", collect_device.service_facts(tmp_path))


def test_entries_of_the_journal(golden: Golden, tmp_path: Path) -> None:
    golden.check("journal", collect_device.journal_facts(tmp_path))


def test_messages_over_mqtt(golden: Golden, tmp_path: Path) -> None:
    golden.check("mqtt", collect_device.mqtt_facts(tmp_path))


def test_series_of_prometheus(golden: Golden) -> None:
    golden.check("prometheus", collect_device.prometheus_facts())


def test_tables_of_telemetry(golden: Golden, tmp_path: Path) -> None:
    golden.check("telemetry", collect_device.telemetry_facts(tmp_path))


def test_keys_of_the_manifest(golden: Golden) -> None:
    golden.check("manifest", collect_device.manifest_facts())


def test_keys_of_what_the_boards_commands_print(golden: Golden) -> None:
    golden.check("output_device", collect_device.output_facts())


@pytest.mark.host
def test_keys_of_what_the_hosts_commands_print(golden: Golden) -> None:
    need_host()
    from tests.surface import collect_converter

    golden.check("output_converter", collect_converter.output_facts())


@pytest.mark.host
def test_names_of_the_host(golden: Golden) -> None:
    need_host()
    from tests.surface import collect_converter

    golden.check("names_converter", collect_converter.name_facts())


@pytest.mark.host
def test_what_a_deployment_brings_to_a_board(golden: Golden, tmp_path: Path) -> None:
    need_host()
    from tests.surface import collect_converter

    golden.check("payload", collect_converter.payload_facts(tmp_path))


@pytest.mark.host
def test_what_a_boards_wheel_holds_beside_modules(golden: Golden, tmp_path: Path) -> None:
    need_host()
    from tests.surface import collect_converter

    golden.check("wheel", collect_converter.wheel_facts(tmp_path))
