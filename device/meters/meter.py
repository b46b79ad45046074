"""The base of every power meter, and what one is given when it opens.

A meter is one file: its options, its class, its line in `device.meters.registry`, its test. Packages from outside derive theirs
from the same base, and register it by an entry point, see `device.core.registry`.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import msgspec
from msgspec import Meta

from device.contract.profile import Scope
from device.core.clock import SystemClock
from device.core.plugin import Plugin
from device.core.resources import Resource
from device.protocols import Clock, PowerOrigin, PowerSample

ScopeOption = Annotated[Scope, Meta(description="what the meter's wires enclose")]


class MeterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a meter's options, and those of a meter that takes none."""


class MeterContext(NamedTuple):
    """What is outside of a meter.

    Attributes:
        root: where ``sys``, ``proc`` and ``dev`` are.
        clock: stamps the samples.
    """

    root: Path = Path("/")
    clock: Clock = SystemClock()


class Meter(Plugin, Resource):
    """Base: see `device.protocols.PowerMeter` for what `read` must do, and `Plugin` for what a class declares.

    Attributes:
        is_findable: without any option it finds out by itself whether it is there: the doctor looks for it without a profile.
        origin: where its figures come from; set when it opens.
        resolution_w: see `PowerMeter.resolution_w`.
        timeout_s: see `PowerMeter.timeout_s`.
    """

    Options: ClassVar[type[msgspec.Struct]] = MeterOptions
    is_findable: ClassVar[bool] = False

    origin: PowerOrigin
    resolution_w: float | None = None
    timeout_s: float = 0.0

    @classmethod
    def open(cls, options: Any, context: MeterContext) -> Self:
        """Opens the meter: calls the class with both arguments, unless a class overrides it.

        Args:
            options: an instance of ``Options``.
            context: see `MeterContext`.

        Raises:
            MeterError: it isn't there, or can't be used.
            MissingDependencyError: the package that it wraps isn't installed.
        """
        return cls(options, context)  # type: ignore[call-arg]

    @classmethod
    def find_unnamed(cls, root: Path) -> tuple[str, ...]:  # noqa: ARG003
        """Sensors of this kind that the machine has, whose required options only a person can know: for the doctor."""
        return ()

    @abstractmethod
    def read(self) -> PowerSample | None:
        """Reads once. See `PowerMeter.read`."""
