"""The manifest: what is in a bundle, what made it, and what it promises."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from device.contract.profile import Positive, Profile
from device.contract.tensor import Preprocessing, TensorSpec

MANIFEST_SCHEMA = 4
"""The newest that is read. Raised with every key that is added, since a reader refuses keys that it doesn't know: by the number
it can say that it is too old. 2 added ``model.temperature`` and the profile's ``model.unknown_below``, 3 the profile's keys for
cameras that fail, 4 the profile's ``sinks``."""

OLDEST_MANIFEST_SCHEMA = 1
"""Raised when an old manifest could be misread. What was added since has a default that means what its absence meant."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle. Names are plain file names: no folders, so no path can lead outside."""

    name: FileName
    size_bytes: int
    sha256: Sha256


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One lowered network.

    Attributes:
        runtime: name of the runtime that runs it, as the registry of its room knows it.
        file: name of its file in the bundle.
        precision: ``int8`` or ``fp32``.
        recipe: name of the quantisation recipe that made it.
        input: what `Session.run` takes.
        output: what `Session.run` gives.
        delegates: how many delegate partitions the graph has.
        undelegated_ops: names of the operators that stand outside every delegate.
        sqnr_db: of its logits against eager fp32, over the verification images.
        top1_agreement: share of the verification images on which it names the same class as eager fp32.
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
        name: variant, as `converter.models` knows it.
        weights: name of the checkpoint, or the file name of the user's own.
        weights_sha256: of the checkpoint file.
        parameters: learnable parameters.
        macs: multiply-accumulates of one inference.
        num_classes: length of ``labels.txt``.
        preprocessing: as the weights demand.
        temperature: that logits are divided by before the softmax, so that scores mean what they say; 1 where nobody fitted
            one. Fitted on the fp32 network, and used for every artefact: fitted to int8 artefacts' own logits it came out
            the same within 1 %, for two networks in both formats.
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
    """The bundle's ``manifest.json``; holds no time and no host name, so that equal input gives equal bytes."""

    schema: int
    profile: Profile
    model: ModelCard
    artefacts: tuple[Artefact, ...]
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
