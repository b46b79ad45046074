"""What a plug-in says about itself: declared once, in its class; read by the doctor, the installer, the schema and the docs.

A plug-in is a class that a table of `device.core.registry` names: a source, a meter, a runtime or a sink. Importing its module
needs nothing beyond the base install, so that tables can be made anywhere; the package that it wraps is imported when it opens,
by `import_package`.

Packages from outside bring plug-ins by entry points, see `device.core.registry`. Their classes derive from the same bases and
declare the same things; what a class doesn't declare has the default of `Plugin`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType, UnionType
from typing import Any, ClassVar, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from device.core.errors import MissingDependencyError, nearest

AnyOptions = TypeVar("AnyOptions", bound=msgspec.Struct)


class Needs(NamedTuple):
    """What a plug-in needs of the machine.

    Attributes:
        extra: the extra of ours that brings its Python packages; empty where the base install is enough.
        system_packages: packages of the distribution that bring a Python module which has no wheel, such as
            ``python3-picamera2``.
        install: what to do where its package is missing, in one line; empty for what ``extra`` and ``system_packages`` say.
        devices: device nodes that it opens, as systemd's ``DeviceAllow=`` takes them: ``char-i2c``, ``/dev/vcio``.
        groups: groups that own these nodes on Raspberry Pi OS.
        is_networked: it connects to other machines.
    """

    extra: str = ""
    system_packages: tuple[str, ...] = ()
    install: str = ""
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    is_networked: bool = False

    @property
    def remedy(self) -> str:
        """What to do where its package is missing, in one line."""
        if self.install:
            return self.install
        if self.system_packages:
            return f"sudo apt install {' '.join(self.system_packages)}, and make the venv with --system-site-packages"
        return f"pip install 'ghostwatt[{self.extra}]'" if self.extra else ""

    @property
    def permission_remedy(self) -> str:
        """What to do where a device may not be opened, in one line."""
        groups = ",".join(self.groups)
        return f"join the group {groups}: sudo usermod -aG {groups} $USER, then log in again" if groups else ""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a plug-in that takes none."""


class Plugin:
    """Base of every plug-in's class; `device.core.registry` loads nothing else.

    The first line of the class's docstring is shown wherever plug-ins are listed.

    Attributes:
        Options: what a profile may say to it: a frozen struct that forbids unknown fields. A field without a default is
            required; its meaning is the ``description`` of its `msgspec.Meta`.
        needs: see `Needs`.
        is_live: of a source: what nobody takes in time is lost. None where there is no such question.
    """

    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    needs: ClassVar[Needs] = Needs()
    is_live: ClassVar[bool | None] = None

    @classmethod
    def summary(cls) -> str:
        """What it is, in one line."""
        return (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "")


def describe_option(annotation: Any) -> str:
    """The meaning of a field of ``Options``: the ``description`` of the `msgspec.Meta` in its type; empty without one."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return next(filter(None, map(describe_option, get_args(annotation))), "")
    notes = getattr(annotation, "__metadata__", ())
    return next((note.description for note in notes if isinstance(note, msgspec.Meta) and note.description), "")


def split_kind(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Splits a plug-in's mapping in a profile into its ``kind`` and its options."""
    return config["kind"], {key: value for key, value in config.items() if key != "kind"}


class OptionError(Exception):
    """An option that a plug-in can't take. Its reader knows where the option was written, and says so in an error of its own.

    Attributes:
        key: the option; ``kind`` where a required one is missing, or several don't go together.
        found: what is wrong.
        expected: what should be there.
        is_unknown: there is no such option.
    """

    def __init__(self, key: str, found: str, expected: str, *, is_unknown: bool = False) -> None:
        super().__init__(f"{key}: {found}; expected {expected}")
        self.key = key
        self.found = found
        self.expected = expected
        self.is_unknown = is_unknown


def read_options(kind: str, given: Mapping[str, object], options: type[AnyOptions]) -> AnyOptions:
    """Checks the options of a plug-in.

    Args:
        kind: the plug-in's name in its table.
        given: option -> value; None counts as not given.
        options: the class's ``Options``.

    Raises:
        OptionError: an unknown option, a missing one, or a wrong value.
    """
    fields = {field.name: field for field in msgspec.structs.fields(options)}
    for key in given:
        if key not in fields:
            expected = nearest(key, fields) if fields else "no key beside kind"
            raise OptionError(key, f"is no key of {kind}", expected, is_unknown=True)
    values = {key: value for key, value in given.items() if value is not None}
    for name, field in fields.items():
        if field.required and name not in values:
            meaning = describe_option(field.type)
            raise OptionError("kind", f"{kind} without {name}", f"{name}: {meaning}" if meaning else name)
    try:
        return msgspec.convert(values, options)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        key = place.rstrip("`").partition("[")[0].partition(".")[0] or "kind"
        value = values.get(key)
        found = repr(value) if isinstance(value, str) else f"{value}"
        raise OptionError(key, found if key in values else "can't be used", message.removeprefix("Expected ")) from error


def import_package(module: str, needs: Needs, where: str) -> ModuleType:
    """Imports the package that a plug-in wraps.

    Args:
        module: full name of the module.
        needs: of the plug-in.
        where: the plug-in, for the message: ``meter ina219``.

    Raises:
        MissingDependencyError: ``not_installed``: it can't be imported; says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            where, f"{module} can't be imported ({error})", remedy=needs.remedy, reason="not_installed"
        ) from error
