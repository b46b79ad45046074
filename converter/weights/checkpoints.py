"""Checkpoints: finds one by name or path, reads it safely, and reads and writes the card beside it.

A checkpoint is a ``.safetensors`` file, or a ``.pth``/``.pt`` that is read with ``weights_only``: nothing in it is executed.
Those that ship with the project lie in ``converter/weights/``, each with its card. The card of a published one (``imagenet``)
is made from `converter.weights.published`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors.torch import load_file, save
from torch import Tensor, nn

from converter.models import classifier_name, create_model
from converter.weights.imagenet import imagenet_labels
from converter.weights.published import (
    IMAGENET,
    PUBLISHED,
    VALIDATION_IMAGES,
    PublishedCheckpoint,
    find_by_sha256,
    find_imagenet,
)
from device.contract import Preprocessing
from device.contract.profile import Positive
from device.core.durable import write_durably
from device.core.errors import ConversionError, nearest

SHIPPED = Path(__file__).parent
CARD_SUFFIX = ".card.json"


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Origin and accuracy of weights.

    Attributes:
        model: variant, as `converter.models` knows it.
        options: of the variant (``ratio``, ``dw_size``), if they aren't the paper's.
        labels: in the order of the classifier's rows.
        preprocessing: that the weights were trained with and demand.
        data: the photographs, with their licence.
        command: that trained the weights.
        validation_images: number of images that the figures below were measured on.
        top1: share of validation images whose label came first.
        top5: share of validation images whose label was among the first five.
        macro_top1: mean of the classes' top-1.
        versions: of the libraries that trained them.
        published_by: who published the shares above; empty if this project measured them.
        temperature: divisor of the logits before the softmax, fitted by `converter.evaluate.confidence` on the validation
            images: a score of 0.8 is then right eight times in ten. 1 if none was fitted.
        expected_calibration_error: mean distance of score and accuracy over 15 bins, with a temperature. Since ``temperature``
            was fitted on all validation images, each fifth of them is scored with the temperature of the other four (5-fold
            cross-validation). None if it wasn't measured.
    """

    model: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    command: str
    validation_images: int
    top1: float
    top5: float
    macro_top1: float
    options: dict[str, int] = {}
    versions: dict[str, str] = {}
    published_by: str = ""
    temperature: Positive = 1.0
    expected_calibration_error: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """A network with its weights, ready to convert.

    Attributes:
        name: as the user named it; a path is shortened to its file name.
        path: of the checkpoint file.
        model: in evaluation mode, float32.
        card: of the weights.
        sha256: of the checkpoint file.
    """

    name: str
    path: Path
    model: nn.Module
    card: Card
    sha256: str


def shipped_names(model: str) -> dict[str, Path]:
    """Finds the checkpoints of a variant that ship with the project: name -> file."""
    prefix = f"{model}."
    return {path.stem.removeprefix(prefix): path for path in sorted(SHIPPED.glob(f"{prefix}*.safetensors"))}


def known_names(model: str) -> tuple[str, ...]:
    """Gives the names that `find_checkpoint` takes for a variant."""
    return (*shipped_names(model), *([IMAGENET] if model in PUBLISHED else []))


def find_checkpoint(model: str, weights: str) -> Path:
    """Finds a checkpoint by the name under which it ships, by ``imagenet``, or by its path.

    Raises:
        ConversionError: there is no such checkpoint; says which there are.
        MissingDependencyError: the package that fetches or holds ``imagenet`` isn't installed.
    """
    shipped = shipped_names(model)
    if weights in shipped:
        return shipped[weights]
    if weights == IMAGENET:
        return find_imagenet(model)
    path = Path(weights)
    if path.is_file():
        return path
    raise ConversionError(
        f"weights of {model}",
        f"{weights!r} is neither a shipped checkpoint nor a file",
        expected=nearest(weights, known_names(model)) + ", or the path of a .safetensors or .pth file",
        reason="weights",
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict as float32, without executing any code in it.

    Raises:
        ConversionError: the file is damaged, or isn't a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises many kinds of errors for a damaged file
        raise ConversionError(
            str(path), f"can't be read as a checkpoint ({type(error).__name__}: {str(error)[:120]})", reason="weights"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConversionError(str(path), "holds no state dict", expected="names mapped to tensors", reason="weights")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def load_strictly(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Loads a state dict whose names and shapes must all match.

    Raises:
        ConversionError: names the first few parameters that don't match.
    """
    own = model.state_dict()
    problems = [f"{name} missing" for name in own if name not in state and not name.endswith("num_batches_tracked")]
    problems += [f"{name} unknown" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        raise ConversionError(
            where,
            f"does not fit the model: {', '.join(problems[:3])}" + (f" and {len(problems) - 3} more" if problems[3:] else ""),
            expected="weights of this variant",
            remedy="check --model and --weights",
            reason="weights",
        )
    model.load_state_dict(state, strict=False)  # only `num_batches_tracked` may be missing, as checked above


def card_path(path: Path) -> Path:
    """Gives the path of a checkpoint's card."""
    return path.with_name(path.stem + CARD_SUFFIX)


def read_card(path: Path) -> Card:
    """Reads the card beside a checkpoint; a published checkpoint without one is recognised by its sha256.

    Raises:
        ConversionError: there is no card, or it is malformed.
    """
    beside = card_path(path)
    if path.is_file() and not beside.exists():
        published = find_by_sha256(_sha256(path))
        if published:
            return _published_card(*published)
    try:
        return msgspec.json.decode(beside.read_bytes(), type=Card)
    except OSError as error:
        raise ConversionError(
            str(beside),
            "is missing",
            expected="the card (labels, preprocessing) beside the checkpoint",
            remedy="converter.train writes one; for weights from elsewhere, write one like those in converter/weights/",
            reason="weights",
        ) from error
    except msgspec.DecodeError as error:
        raise ConversionError(str(beside), f"is malformed: {error}", reason="weights") from error


def _published_card(model: str, published: PublishedCheckpoint) -> Card:
    return Card(
        model=model,
        labels=imagenet_labels(),
        preprocessing=published.preprocessing,
        data="ImageNet (ILSVRC 2012); weights Apache-2.0",
        command=f"published: {published.place.title}",
        validation_images=VALIDATION_IMAGES,
        top1=published.top1,
        top5=published.top5,
        macro_top1=published.top1,
        published_by=published.figures,
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_checkpoint(model: str, weights: str) -> Checkpoint:
    """Finds, reads and checks a checkpoint.

    Args:
        model: the expected variant.
        weights: a shipped name, ``imagenet``, or a path.

    Raises:
        ConversionError: it is missing, damaged, or of another variant, or its labels don't match its classifier.
        MissingDependencyError: the package that fetches or holds ``imagenet`` isn't installed.
    """
    path = find_checkpoint(model, weights)
    card = read_card(path)
    if card.model != model:
        raise ConversionError(
            str(path), f"is a checkpoint of {card.model}", expected=model, remedy=f"pass --model {card.model}", reason="weights"
        )
    state = read_state(path)
    network = create_model(model, num_classes=len(card.labels), **card.options)
    classifier = f"{classifier_name(network)}.weight"
    rows = state[classifier].shape[0] if classifier in state else len(card.labels)
    if rows != len(card.labels):
        raise ConversionError(
            str(card_path(path)),
            f"names {len(card.labels)} labels",
            expected=f"{rows}, as many as the classifier has rows",
            reason="labels",
        )
    load_strictly(network, state, str(path))
    name = weights if weights in known_names(model) else path.name
    return Checkpoint(name, path, network.eval(), card, _sha256(path))


def save_checkpoint(path: Path, model: nn.Module, card: Card) -> None:
    """Writes weights in half precision, and the card beside them, each atomically.

    Half precision halves the file, and its rounding error is far below that of int8.
    """
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, save(state))
    write_durably(card_path(path), msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
