"""The unit that runs the daemon, one instance a profile, and what a profile with network devices adds to it.

References:
    systemd.service(5), systemd.exec(5), systemd.resource-control(5), of systemd 252 (Debian 12) and 257 (Debian 13).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import urlsplit

from device.core.errors import (
    BoardError,
    MissingDependencyError,
    ProfileError,
    UsageError,
)
from device.service.layout import USER, Layout
from device.service.plugins import read_plugins

FIRMWARE_DEVICES = ("/dev/vcio", "/dev/vcio_gencmd")
"""The Raspberry Pi's firmware: every run asks it for throttling."""

FIRMWARE_GROUPS = ("video", "gpio")
"""Groups that own these nodes on Raspberry Pi OS."""


def allowed_devices() -> tuple[str, ...]:
    """Devices that any plug-in of ours, or the daemon itself, opens."""
    return tuple(sorted({*FIRMWARE_DEVICES, *(device for plugin in read_plugins() for device in plugin.devices)}))


def owning_groups() -> tuple[str, ...]:
    """Groups that own them."""
    return tuple(sorted({*FIRMWARE_GROUPS, *(group for plugin in read_plugins() for group in plugin.groups)}))


WATCHDOG_S = 30
START_LIMIT_S = 180
RESTART_S = 10

HOPELESS = (UsageError, ProfileError, BoardError, MissingDependencyError)
"""Starting again changes nothing about these. All others end well now and then: a camera comes back, a bundle is installed."""

_TEMPLATE = """\
# Written by `python -m device.service install`, and anew by each upgrade. Your own settings belong into a drop-in:
# systemctl edit ghostwatt@PROFILE

[Unit]
Description=ghostwatt: what the camera sees, and what it costs in watts (%i)
After=network.target
# A camera may be away for an hour: no number of starts makes the service give up.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
Environment=HOME={state} OPENBLAS_NUM_THREADS=1 GHOSTWATT_ARGS=--camera
# Other flags of device.run for one profile: GHOSTWATT_ARGS="--source v4l2:name=HD" in this file.
EnvironmentFile=-{configuration}/%i.env
ExecStart={launcher} run --store {state} --profile %i \\
    --telemetry {state}/telemetry-%i.sqlite $GHOSTWATT_ARGS
WorkingDirectory={state}
# The service is up after its first inference on a real frame. Cameras get as long as the daemon itself waits for them.
TimeoutStartSec={start_limit}
TimeoutStopSec=20
# A sign of life comes after a finished frame, see device/daemon/heartbeat.py.
WatchdogSec={watchdog}
TimeoutAbortSec=10
Restart=on-failure
# Always the same: RestartSteps= (systemd 254) would grow with every restart of the board's whole life, as a success sets
# nothing back.
RestartSec={restart}
RestartPreventExitStatus={hopeless}

User={user}
Group={user}
{groups}StateDirectory=ghostwatt
StateDirectoryMode=0750
ConfigurationDirectory=ghostwatt
UMask=0027

# A leak must not take the board with it, nor a core dump the card.
OOMPolicy=kill
MemoryMax=75%
TasksMax=256
LimitCORE=0

DevicePolicy=closed
# Devices of cameras and meters, as they declare them (python -m device.doctor --plug-ins), and of the Raspberry Pi's firmware.
{devices}
# Only this board, unless the profile names cameras, plugs or brokers: then 50-network.conf beside this file allows them.
IPAddressDeny=any
IPAddressAllow=localhost

CapabilityBoundingSet=
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
# AF_UNIX: systemd and the journal, and the process that libcamera puts a camera's algorithms into where it can't tell who made
# them. AF_NETLINK: by which udev reports cameras to libcamera, and USB devices to libusb. The others: cameras, plugs, brokers.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
# libcamera trusts what its distribution has signed. Algorithms of another make it locks into namespaces, which is refused here:
# where libcamera is of your own make, put RestrictNamespaces=user net into a drop-in.
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# What is refused fails, and kills nobody: libraries ask for priorities that they can do without.
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render_unit(groups: Collection[str], layout: Layout | None = None) -> str:
    """Writes the unit's file.

    Args:
        groups: that the board has. A unit that names others doesn't start.
        layout: of the board.
    """
    layout = layout or Layout()
    member_of = " ".join(group for group in owning_groups() if group in groups)
    return _TEMPLATE.format(
        state=layout.outside(layout.state),
        configuration=layout.outside(layout.configuration),
        launcher=layout.outside(layout.launcher),
        user=USER,
        devices="".join(f"DeviceAllow={device} rw\n" for device in allowed_devices()),
        groups=f"SupplementaryGroups={member_of}\n" if member_of else "",
        start_limit=START_LIMIT_S,
        watchdog=WATCHDOG_S,
        restart=RESTART_S,
        hopeless=" ".join(str(error.exit_code) for error in HOPELESS),
    )


PRIVATE_NETWORKS = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)
"""RFC 1918, RFC 3927, RFC 4193 and RFC 4291: where a camera, a plug and a home's name server are."""


_SERVED = re.compile(r"(0\.0\.0\.0|\[::\]):\d+")


def network_hosts(words: Iterable[str]) -> tuple[str, ...]:
    """Those whom the daemon must reach, or who must reach it: the hosts of URLs, by name or number, and every address where it
    serves the whole network. Files, buses and devices have none.
    """
    found: set[str] = set()
    for word in words:
        host = urlsplit(word).hostname if "://" in word else None
        found |= {host} if host and host != "localhost" else set()
        found |= {word} if _SERVED.fullmatch(word) else set()
    return tuple(sorted(found))


def allowed_networks(hosts: Sequence[str]) -> tuple[str, ...]:
    """What ``IPAddressAllow`` must hold so that hosts can be reached: numbers as they are, and for a name, which the kernel
    can't filter by and whose number may change, all private networks.
    """
    numbers, has_name = [], False
    for host in hosts:
        try:
            numbers.append(str(ipaddress.ip_address(host)))
        except ValueError:
            has_name = True
    return (*numbers, *(PRIVATE_NETWORKS if has_name else ()))


def render_network(hosts: Sequence[str]) -> str:
    """Writes the drop-in for a profile with network devices; empty where it has none."""
    networks = allowed_networks(hosts)
    if not networks:
        return ""
    lines = "".join(f"IPAddressAllow={network}\n" for network in networks)
    return f"# Written by `python -m device.service`, from the profile: {', '.join(hosts)}\n[Service]\n{lines}"
