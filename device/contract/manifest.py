"""The manifest: a bundle's contents, how it was made, and its verified accuracy."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from device.contract.profile import Positive, Profile
from device.contract.tensor import Preprocessing, TensorSpec

MANIFEST_SCHEMA = 4
"""The newest schema that is read. Increased with every new key: a reader rejects unknown keys, and this number lets it report
that it is too old. 2 added ``model.temperature`` and the profile's ``model.unknown_below``, 3 the profile's keys for cameras
that fail, 4 the profile's ``sinks``."""

OLDEST_MANIFEST_SCHEMA = 1
"""Increased if an old manifest could be misread. The defaults of newer keys mean the same as their absence did."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle. Names have no folders, so that no path can lead outside the bundle."""

    name: FileName
    size_bytes: int
    sha256: Sha256


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network exported for one runtime.

    Attributes:
        runtime: name of the runtime that runs it, as in the registry of runtimes.
        file: name of its file in the bundle.
        precision: ``int8`` or ``fp32``.
        recipe: name of the quantisation recipe.
        input: input of `Session.run`.
        output: output of `Session.run`.
        delegates: number of delegate partitions in the graph.
        undelegated_ops: names of the operators outside all delegates.
        sqnr_db: SQNR of its logits against eager fp32, over the verification images.
        top1_agreement: share of the verification images on which its best class is that of eager fp32.
    """

    runtime: str
    file: FileName
    precision: str
    recipe: str
    input: TensorSpec
    output: TensorSpec
    delegates: int
    undelegated_ops: tuple[str, ...]
    sqnr_db: float
    top1_agreement: float


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network in the bundle.

    Attributes:
        name: variant, as in `converter.models`.
        weights: name of the checkpoint, or the file name of the user's own.
        weights_sha256: hash of the checkpoint file.
        parameters: number of learnable parameters.
        macs: multiply-accumulates per inference.
        num_classes: number of lines in ``labels.txt``.
        preprocessing: as the weights require.
        temperature: divisor of the logits before the softmax, which makes scores match probabilities; 1 if not fitted. Fitted
            on the fp32 network and used for all artefacts: fitted to the logits of int8 artefacts, it was the same within 1 %,
            for two networks in both formats.
    """

    name: str
    weights: str
    weights_sha256: Sha256
    parameters: int
    macs: int
    num_classes: Annotated[int, Meta(ge=1)]
    preprocessing: Preprocessing
    temperature: Positive = 1.0


def manifest_schema_for(profile: Profile) -> int:
    """The oldest schema that has every key which a profile uses: boards whose software is older can read it."""
    return MANIFEST_SCHEMA if profile.wanted_sinks else 3


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle's ``manifest.json``. Contains no time and no host name: equal inputs give equal bytes."""

    schema: int
    profile: Profile
    model: ModelCard
    artefacts: tuple[Artefact, ...]
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
