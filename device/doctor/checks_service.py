"""The service, where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

from device.doctor.check import COMMAND_TIMEOUT_S, Check, CheckContext, Verdict
from device.service.layout import Layout

_UNITS = "ghostwatt@*.service"


def check_service(context: CheckContext) -> Iterator[Check]:
    """Whether the installed service runs."""
    if not (context.root / "run/systemd/system").is_dir():
        yield Check("service", "unsupported", "systemd doesn't run here")
        return
    if not Layout(context.root).unit.exists():
        yield Check("service", "unsupported", "not installed")
        return
    columns = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", _UNITS]
    done = context.command(columns, COMMAND_TIMEOUT_S)
    if done.code:
        yield Check("service", "warn", f"systemctl can't be asked: {done.err.strip() or done.code}")
        return
    rows = [line.split(maxsplit=4) for line in done.out.splitlines() if line.strip()]
    if not rows:
        yield Check("service", "warn", "installed, but no profile runs", "ghostwatt service use PROFILE")
    for name, _, active, state, *_ in (row for row in rows if len(row) >= 4):
        if active == "active":
            yield Check(name, "ok", f"{active} ({state})")
        else:
            verdict: Verdict = "fail" if active == "failed" else "warn"
            yield Check(name, verdict, f"{active} ({state})", f"journalctl -u {name} -n 50; sudo systemctl restart {name}")
