"""The bundle: all that a board needs. `reader` opens one, `store` keeps several and switches between them."""

from device.bundle.reader import (
    GOLDEN_NAME,
    LABELS_NAME,
    Bundle,
    Golden,
    describe_file,
    encode_manifest,
    find_bundle,
    open_bundle,
    write_golden,
)
from device.service.layout import MANIFEST_NAME

__all__ = [
    "GOLDEN_NAME",
    "LABELS_NAME",
    "MANIFEST_NAME",
    "Bundle",
    "Golden",
    "describe_file",
    "encode_manifest",
    "find_bundle",
    "open_bundle",
    "write_golden",
]
