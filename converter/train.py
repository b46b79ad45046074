"""Trains a network on a labelled folder: ``python -m converter.train --data DIR``.

From scratch: AdamW, cosine schedule with warm-up, label smoothing, mixup, random crops and colour, an exponential moving
average of the weights, and an input size that grows. A run that was interrupted goes on where its last epoch ended.

References:
    * mixup: Zhang et al., ICLR 2018 (arXiv 1710.09412).
    * training at a smaller size than testing: Touvron et al., NeurIPS 2019 (arXiv 1906.06423).
    * inverse square-root class weights in sampling: Mikolov et al., NeurIPS 2013 (arXiv 1310.4546), section 2.3's idea.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from converter.checkpoints import Card, load_strictly, read_state, save_checkpoint
from converter.datasets import (
    TRAIN_NAMES,
    VALIDATION_NAMES,
    LabelledFolder,
    Sample,
    find_split,
    read_labelled_folder,
)
from converter.models import create_model, model_names
from converter.ranges import RangePenalty
from device.contract import Preprocessing
from device.errors import TrainingError, exit_with_one_line
from device.imaging import decode_image
from device.preprocess import fit_frame

Image = NDArray[np.uint8]


class Recipe(msgspec.Struct, frozen=True):
    """Everything that shapes a training run; stored with its state, so that a resumed run is the same run.

    Attributes:
        range_penalty: weight of `converter.ranges.RangePenalty` in the loss; 0 trains without.
    """

    model: str = "ghostnet_100"
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 3
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.2
    ema_decay: float = 0.995
    first_px: int = 128
    last_px: int = 192
    test_px: int = 224
    seed: int = 0
    range_penalty: float = 0.0


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Random crops, mirror images and colours of the training photographs: ``(3, px, px)`` float32, normalised."""

    def __init__(self, samples: tuple[Sample, ...], px: int, spec: Preprocessing, seed: int) -> None:
        self.samples = samples
        self.px = px
        self.mean = np.asarray(spec.mean, np.float32)
        self.std = np.asarray(spec.std, np.float32)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        # Seeded by epoch and index, not by worker, so that a run doesn't depend on how many workers it had.
        rng = np.random.default_rng((self.seed, index))
        image = _random_crop(decode_image(sample.path), self.px, rng)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        pixels = _jitter_colours(image.astype(np.float32) / 255.0, rng)
        pixels = (pixels - self.mean) / self.std
        return torch.from_numpy(_erase_a_patch(pixels, rng)).permute(2, 0, 1), sample.label


def _random_crop(image: Image, px: int, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    area = height * width * rng.uniform(0.3, 1.0)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width = min(width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(area / aspect))))
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    crop = image[top : top + crop_height, left : left + crop_width]
    return np.asarray(cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA), np.uint8)


def _jitter_colours(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean() * brightness
    return np.clip(pixels, 0.0, 1.0).astype(np.float32)


def _erase_a_patch(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.25:
        px = pixels.shape[0]
        side = int(rng.integers(px // 8, px // 3))
        top, left = rng.integers(0, px - side, 2)
        pixels[top : top + side, left : left + side] = 0.0
    return pixels


class ExponentialAverage:
    """A running average of a model's weights and statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average a step; early steps move it further, since they have little behind them."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)


class Score(msgspec.Struct, frozen=True):
    """Accuracy over a labelled set; all three are shares from 0 to 1."""

    images: int
    top1: float
    top5: float
    macro_top1: float


def score_logits(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
    """Top-1, top-5 and class-averaged top-1.

    Args:
        logits: ``(N, C)`` float32.
        labels: ``(N,)`` int64.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order[:, 0] == labels
    per_class = [float(hits[labels == index].mean()) for index in np.unique(labels)]
    return Score(
        len(labels), float(hits.mean()), float((order[:, :5] == labels[:, None]).any(axis=1).mean()), float(np.mean(per_class))
    )


@torch.inference_mode()
def predict(model: nn.Module, samples: tuple[Sample, ...], spec: Preprocessing) -> NDArray[np.float32]:
    """Logits of labelled images through the board's own preprocessing: ``(N, C)`` float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(samples), 32):
        batch = [fit_frame(decode_image(sample.path), spec) for sample in samples[start : start + 32]]
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255.0
        rows.append(model((pixels - mean) / std).numpy())
    return np.concatenate(rows)


class Trainer:
    """One run: holds what has to be saved to go on after a kill.

    Args:
        data: holds ``train/<class>/`` and ``validation/<class>/``.
        recipe: what shapes the run.
        state_path: where its state is kept between epochs.
        start: checkpoint to start from, of the same model and classes; None starts from scratch.
        workers: processes that prepare images beside the one that trains; 0 prepares them in between.

    Raises:
        TrainingError: the data can't be trained on.
    """

    def __init__(self, data: Path, recipe: Recipe, state_path: Path, *, start: Path | None = None, workers: int = 1) -> None:
        self.recipe = recipe
        self.start = start
        self.workers = workers
        self.state_path = state_path
        self.spec = Preprocessing(input_px=recipe.test_px)
        train_folder = find_split(data, TRAIN_NAMES)
        validation_folder = find_split(data, VALIDATION_NAMES)
        if train_folder is None or validation_folder is None:
            raise TrainingError(
                str(data),
                "has no train/ and validation/ folders",
                expected="train/<class>/*.jpg and validation/<class>/*.jpg",
                reason="mismatch",
            )
        self.train_set: LabelledFolder = read_labelled_folder(train_folder)
        if len(self.train_set.classes) < 2:
            raise TrainingError(str(train_folder), "holds one class", expected="two or more", reason="one_class")
        self.validation_set = read_labelled_folder(validation_folder, self.train_set.classes)
        torch.manual_seed(recipe.seed)
        self.model = create_model(recipe.model, num_classes=len(self.train_set.classes))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
        if start is not None:
            load_strictly(self.model, read_state(start), str(start))
        self.ranges = RangePenalty(self.model) if recipe.range_penalty else None
        self.average = ExponentialAverage(self.model, recipe.ema_decay)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.epochs_done = 0
        self.steps_an_epoch = math.ceil(len(self.train_set.samples) / recipe.batch_size)

    def resume(self) -> None:
        """Goes on from the state of an earlier, interrupted run of the same recipe, where there is one."""
        if not self.state_path.is_file():
            return
        state = torch.load(self.state_path, weights_only=True)
        if state["recipe"] != msgspec.to_builtins(self.recipe):
            raise TrainingError(
                str(self.state_path),
                "was left by a run with other settings",
                expected="the same flags",
                remedy="repeat them, or delete the file to start anew",
                reason="mismatch",
            )
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs_done = state["epochs_done"]

    def save_state(self) -> None:
        """Writes what `resume` reads, atomically."""
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.state_path.with_suffix(".partial")
        state = {
            "recipe": msgspec.to_builtins(self.recipe),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            "optimiser": self.optimiser.state_dict(),
            "epochs_done": self.epochs_done,
        }
        torch.save(state, scratch)
        scratch.replace(self.state_path)

    def input_px(self, epoch: int) -> int:
        """Side of the training images, growing in steps of 32 over the run."""
        share = epoch / max(1, self.recipe.epochs - 1)
        px = self.recipe.first_px + share * (self.recipe.last_px - self.recipe.first_px)
        return round(px / 32) * 32

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        warmup = self.recipe.warmup_epochs * self.steps_an_epoch
        if step < warmup:
            return self.recipe.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, self.recipe.epochs * self.steps_an_epoch - warmup)
        return self.recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch of shuffled batches; rare classes are drawn more often, by the inverse root of their share."""
        labels = np.asarray([sample.label for sample in self.train_set.samples])
        weights = 1.0 / np.sqrt(np.bincount(labels))[labels]
        generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + epoch)
        sampler = WeightedRandomSampler(weights.tolist(), len(labels), generator=generator)
        images = AugmentedImages(self.train_set.samples, self.input_px(epoch), self.spec, self.recipe.seed * 100_003 + epoch)
        return iter(DataLoader(images, self.recipe.batch_size, sampler=sampler, num_workers=self.workers, drop_last=True))

    def train_epoch(self) -> Iterator[float]:
        """Trains for one epoch; yields the loss of each batch."""
        self.model.train()
        # Dropout's randomness belongs to the epoch, so that a resumed run is the same run.
        torch.manual_seed(self.recipe.seed * 100_003 + self.epochs_done)
        rng = np.random.default_rng((self.recipe.seed, self.epochs_done))
        for index, (images, labels) in enumerate(self.batches(self.epochs_done)):
            rate = self.learning_rate(self.epochs_done * self.steps_an_epoch + index)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            share = float(rng.beta(self.recipe.mixup_alpha, self.recipe.mixup_alpha)) if self.recipe.mixup_alpha else 1.0
            partner = torch.from_numpy(rng.permutation(len(labels)))
            mixed = share * images + (1.0 - share) * images[partner]
            logits, penalty = self.run_model(mixed.to(memory_format=torch.channels_last))
            smoothing = self.recipe.label_smoothing
            loss = self.recipe.range_penalty * penalty + share * functional.cross_entropy(
                logits, labels, label_smoothing=smoothing
            )
            loss = loss + (1.0 - share) * functional.cross_entropy(logits, labels[partner], label_smoothing=smoothing)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimiser.step()
            self.average.update(self.model)
            yield float(loss.detach())
        self.epochs_done += 1

    def run_model(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a batch, and the penalty on its activation ranges; 0 where the recipe has none."""
        if self.ranges is None:
            return self.model(images), torch.zeros(())
        return self.ranges.measure(images)

    def validate(self) -> Score:
        """Accuracy of the averaged weights on the validation split, at the size that they will run at."""
        logits = predict(self.average.model.eval(), self.validation_set.samples, self.spec)
        return score_logits(logits, np.asarray([sample.label for sample in self.validation_set.samples], np.int64))


def run(trainer: Trainer, out: Path, data_title: str, console: Console) -> Card:
    """Trains to the end and writes the checkpoint with its card."""
    recipe = trainer.recipe
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        total = recipe.epochs * trainer.steps_an_epoch
        task = progress.add_task("training", total=total, completed=trainer.epochs_done * trainer.steps_an_epoch)
        while trainer.epochs_done < recipe.epochs:
            started_s = time.monotonic()
            losses = []
            for loss in trainer.train_epoch():
                losses.append(loss)
                progress.advance(task)
            trainer.save_state()
            score = trainer.validate()
            console.print(
                f"epoch {trainer.epochs_done:3d}/{recipe.epochs}  {trainer.input_px(trainer.epochs_done - 1)} px  "
                f"loss {np.mean(losses):.3f}  top-1 {score.top1:6.1%}  macro {score.macro_top1:6.1%}  "
                f"{time.monotonic() - started_s:.0f} s"
            )
    score = trainer.validate()
    card = Card(
        model=recipe.model,
        labels=trainer.train_set.classes,
        preprocessing=trainer.spec,
        data=data_title,
        command="python -m converter.train " + " ".join(_flags(recipe, trainer.start)),
        validation_images=score.images,
        top1=round(score.top1, 4),
        top5=round(score.top5, 4),
        macro_top1=round(score.macro_top1, 4),
        versions={"torch": str(torch.__version__)},
    )
    save_checkpoint(out, trainer.average.model, card)
    trainer.state_path.unlink(missing_ok=True)
    return card


def _flags(recipe: Recipe, start: Path | None) -> list[str]:
    chosen, usual = msgspec.to_builtins(recipe), msgspec.to_builtins(Recipe())
    given = ["--data DIR"] + ([f"--start {start.name}"] if start else [])
    return given + [f"--{key.replace('_', '-')} {chosen[key]}" for key in chosen if chosen[key] != usual[key]]


def build_parser() -> argparse.ArgumentParser:
    """The command's flags; one for every field of `Recipe`."""
    parser = argparse.ArgumentParser(prog="python -m converter.train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train/<class>/ and validation/<class>/")
    parser.add_argument("--data-title", default="", help="what the photographs are, for the card (default: DIR's name)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="checkpoint to write (default: build/weights/MODEL.DATA.safetensors)"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="checkpoint to start from (default: from scratch)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that prepare images (default: 1)")
    for field in msgspec.structs.fields(Recipe):
        choices = model_names() if field.name == "model" else None
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type,
            default=field.default,
            choices=choices,
            help=f"(default: {field.default})",
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, trains, prints the card's figures."""
    flags = build_parser().parse_args(arguments)
    recipe = Recipe(**{field.name: getattr(flags, field.name) for field in msgspec.structs.fields(Recipe)})
    out: Path = flags.out or Path("build/weights") / f"{recipe.model}.{flags.data.resolve().name}.safetensors"
    console = Console()
    trainer = Trainer(flags.data, recipe, out.with_suffix(".state"), start=flags.start, workers=flags.workers)
    trainer.resume()
    console.print(
        f"{recipe.model}: {len(trainer.train_set.samples)} photographs to train on, {len(trainer.validation_set.samples)} "
        f"to validate, {len(trainer.train_set.classes)} classes; epoch {trainer.epochs_done} of {recipe.epochs}"
    )
    card = run(trainer, out, flags.data_title or flags.data.resolve().name, console)
    console.print(f"{out}: top-1 {card.top1:.1%}, macro {card.macro_top1:.1%} on {card.validation_images} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(exit_with_one_line(main))
