"""The vocabulary that host and board share: frozen, strict, and owned by the reader."""

from device.contract.manifest import (
    MANIFEST_SCHEMA,
    OLDEST_MANIFEST_SCHEMA,
    Artefact,
    FileEntry,
    Manifest,
    ModelCard,
    manifest_schema_for,
)
from device.contract.profile import (
    PROFILE_SCHEMA,
    Backoff,
    Board,
    Camera,
    Limits,
    MeterConfig,
    Model,
    OwnOptions,
    Power,
    Profile,
    Runtime,
    Telemetry,
)
from device.contract.tensor import Preprocessing, TensorSpec

__all__ = [
    "MANIFEST_SCHEMA",
    "OLDEST_MANIFEST_SCHEMA",
    "PROFILE_SCHEMA",
    "Artefact",
    "Backoff",
    "Board",
    "Camera",
    "FileEntry",
    "Limits",
    "Manifest",
    "MeterConfig",
    "Model",
    "ModelCard",
    "OwnOptions",
    "Power",
    "Preprocessing",
    "Profile",
    "Runtime",
    "Telemetry",
    "TensorSpec",
    "manifest_schema_for",
]
