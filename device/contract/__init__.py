"""The formats that host and board share: frozen, strict, and defined on the side that reads them."""

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
    MeterConfig,
    Model,
    OwnOptions,
    Power,
    Profile,
    RateLimits,
    RuntimeSettings,
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
    "Manifest",
    "MeterConfig",
    "Model",
    "ModelCard",
    "OwnOptions",
    "Power",
    "Preprocessing",
    "Profile",
    "RateLimits",
    "RuntimeSettings",
    "Telemetry",
    "TensorSpec",
    "manifest_schema_for",
]
