"""One training run: its settings, its steps, and the state by which an interrupted run can be resumed.

A run starts from scratch or from other weights, with or without a teacher. It uses AdamW, a cosine schedule with warm-up, label
smoothing, mixup, an exponential moving average of the weights, a growing input size, and optionally the noise of int8.

References:
    * AdamW: Loshchilov & Hutter, ICLR 2019 (arXiv 1711.05101).
    * mixup: Zhang et al., ICLR 2018 (arXiv 1710.09412).
    * label smoothing: Szegedy et al., CVPR 2016 (arXiv 1512.00567).
    * distillation: Hinton et al., 2015 (arXiv 1503.02531); teacher and student on the same mixed crops: Beyer et al.,
      "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022 (arXiv 2106.05237).
    * training at a smaller size than testing: Touvron et al., NeurIPS 2019 (arXiv 1906.06423).
    * inverse square-root class weights in sampling: Mikolov et al., NeurIPS 2013 (arXiv 1310.4546), section 2.3.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, WeightedRandomSampler

from converter.data.datasets import LabelledImage, Split
from converter.evaluate.accuracy import Score, score
from converter.models import create_model
from converter.train.augmentation import AugmentedImages
from converter.train.noise import QuantisationNoise
from converter.weights.checkpoints import load_strictly, read_card, read_state
from device.contract import Preprocessing
from device.core.durable import write_durably
from device.core.errors import TrainingError
from device.image.opencv import decode_image
from device.image.preprocess import fit_frame


class TrainingSettings(msgspec.Struct, frozen=True):
    """Everything that shapes a training run. It is stored with the state of the run, and must be the same to resume it.

    Attributes:
        distillation: share of the loss that is the distance from the teacher's scores; the rest is the distance from the
            labels. Without a teacher, all of it is.
        temperature: divisor of the teacher's and the student's logits, so that low scores have an influence.
        noise_weight: weight of `converter.train.noise.QuantisationNoise` in the loss. 0 trains without it, in half the time;
            int8 then costs 5 to 10 dB more.
        noise_from: share of the run after which the noise is added.
        first_px: side of the training images at the start of the run.
        last_px: side of the training images at its end. It should be near ``test_px``: to a network that was trained on
            smaller images, objects look larger than they are. At 224 px, that cost the clothing weights, trained at 160 px,
            6 points of top-1.
        test_px: side of the images that the network is for.
        test_crop: share of a photograph's short side that these images show.
        hold_out: share of each class's training photographs to validate on, if there is no validation split.
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
    last_px: int = 224
    test_px: int = 224
    test_crop: float = 1.0
    seed: int = 0
    distillation: float = 0.9
    temperature: float = 2.0
    noise_weight: float = 0.2
    noise_from: float = 0.5
    hold_out: float = 0.0


class ExponentialAverage:
    """A running average of a model's weights and statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Updates the average after a step; early steps weigh more."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)


@torch.inference_mode()
def predict(model: nn.Module, samples: tuple[LabelledImage, ...], spec: Preprocessing) -> NDArray[np.float32]:
    """Computes logits of labelled images with the board's preprocessing: ``(N, C)`` float32."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(samples), 32):
        batch = [fit_frame(decode_image(sample.path), spec) for sample in samples[start : start + 32]]
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255.0
        rows.append(model(((pixels - mean) / std).to(device, memory_format=torch.channels_last)).cpu().numpy())
    return np.concatenate(rows)


class Epoch(msgspec.Struct, frozen=True):
    """The result of an epoch.

    Attributes:
        epoch: from 1.
        input_px: side of the training images.
        loss: mean over the batches.
        noise_db: mean over the batches of int8's noise power over the logits' power; None if the epoch had no noise.
        top1: of the averaged weights, on the validation split.
        macro_top1: of the averaged weights, on the validation split.
    """

    epoch: int
    input_px: int
    loss: float
    noise_db: float | None
    top1: float
    macro_top1: float


def load_start(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Loads weights to start from. A classifier for other classes stays fresh.

    Raises:
        ConversionError: the other layers don't match either.
    """
    own = model.state_dict()
    *_, weight, bias = own  # the classifier comes last in every family
    for name in (weight, bias):
        if name in state and state[name].shape != own[name].shape:
            state[name] = own[name]
    load_strictly(model, state, where)


def load_teacher(path: Path, classes: tuple[str, ...]) -> nn.Module:
    """Loads a teacher.

    Raises:
        TrainingError: its classes are not those of the photographs.
        ConversionError: it can't be read.
    """
    card = read_card(path)
    if card.labels != classes:
        raise TrainingError(
            str(path), f"knows the classes {', '.join(card.labels)}", expected=", ".join(classes), reason="mismatch"
        )
    teacher = create_model(card.model, num_classes=len(classes), **card.options)
    load_strictly(teacher, read_state(path), str(path))
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Trainer:
    """One run, with everything that has to be saved to resume it.

    Args:
        photographs: to train on and to validate on.
        settings: of the run.
        state_path: file that keeps the state between epochs.
        start: checkpoint of the same model to start from; if its classes differ, without its classifier. None starts from
            scratch.
        teacher: checkpoint of the same classes to learn from; see `TrainingSettings.distillation`.
        workers: number of processes that prepare images; 0 prepares them in the training process.
        device: ``cpu`` or ``cuda``, as torch names it.
    """

    def __init__(
        self,
        photographs: Split,
        settings: TrainingSettings,
        state_path: Path,
        *,
        start: Path | None = None,
        teacher: Path | None = None,
        workers: int = 1,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.start = start
        self.teacher_path = teacher
        self.workers = workers
        self.state_path = state_path
        self.device = torch.device(device)
        self.spec = Preprocessing(input_px=settings.test_px, crop_fraction=settings.test_crop)
        self.train_set, self.validation_set = photographs
        torch.manual_seed(settings.seed)
        self.model = create_model(settings.model, num_classes=len(self.train_set.classes))
        if start is not None:
            load_start(self.model, read_state(start), str(start))
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this
        self.teacher = None if teacher is None else load_teacher(teacher, self.train_set.classes).to(self.device)
        self.noise = QuantisationNoise(self.model) if settings.noise_weight else None
        self.average = ExponentialAverage(self.model, settings.ema_decay)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.history: list[Epoch] = []
        self.batch_size = min(settings.batch_size, len(self.train_set.samples))
        self.steps_an_epoch = len(self.train_set.samples) // self.batch_size

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def resume(self) -> None:
        """Resumes from the state of an interrupted run with the same settings, if there is one."""
        if not self.state_path.is_file():
            return
        state = torch.load(self.state_path, weights_only=True, map_location=self.device)
        if state["recipe"] != msgspec.to_builtins(self.settings):
            raise TrainingError(
                str(self.state_path),
                "was left by a run with other settings",
                expected="the same flags",
                remedy="pass the same flags, or delete the file to start anew",
                reason="mismatch",
            )
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = msgspec.convert(state["history"], list[Epoch])

    def save_state(self) -> None:
        """Writes the state that `resume` reads, atomically."""
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": msgspec.to_builtins(self.settings),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            "optimiser": self.optimiser.state_dict(),
            "history": msgspec.to_builtins(self.history),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_durably(self.state_path, buffer.getvalue())

    def input_px(self, epoch: int) -> int:
        """Gives the side of the training images, which grows over the run in steps of 32."""
        share = epoch / max(1, self.settings.epochs - 1)
        px = self.settings.first_px + share * (self.settings.last_px - self.settings.first_px)
        return round(px / 32) * 32

    def learning_rate(self, step: int) -> float:
        """Gives the learning rate of a step: a linear warm-up, then half a cosine down to a hundredth."""
        warmup = self.settings.warmup_epochs * self.steps_an_epoch
        if step < warmup:
            return self.settings.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, self.settings.epochs * self.steps_an_epoch - warmup)
        return self.settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws the batches of an epoch. Rare classes are drawn more often, by the inverse root of their share."""
        labels = np.asarray([sample.label for sample in self.train_set.samples])
        weights = 1.0 / np.sqrt(np.bincount(labels))[labels]
        generator = torch.Generator().manual_seed(self.settings.seed * 100_003 + epoch)
        sampler = WeightedRandomSampler(weights.tolist(), len(labels), generator=generator)
        images = AugmentedImages(self.train_set.samples, self.input_px(epoch), self.spec, self.settings.seed * 100_003 + epoch)
        return iter(DataLoader(images, self.batch_size, sampler=sampler, num_workers=self.workers, drop_last=True))

    def train_epoch(self) -> Iterator[float]:
        """Trains for one epoch and saves the state; yields the loss of each batch."""
        self.model.train()
        # Seeded for each epoch, so that a resumed run draws the same dropout as an uninterrupted one.
        torch.manual_seed(self.settings.seed * 100_003 + self.epochs_done)
        rng = np.random.default_rng((self.settings.seed, self.epochs_done))
        losses: list[float] = []
        noises: list[float] = []
        for index, (images, labels) in enumerate(self.batches(self.epochs_done)):
            rate = self.learning_rate(self.epochs_done * self.steps_an_epoch + index)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            share = float(rng.beta(self.settings.mixup_alpha, self.settings.mixup_alpha)) if self.settings.mixup_alpha else 1.0
            partner = torch.from_numpy(rng.permutation(len(labels)))
            mixed = share * images + (1.0 - share) * images[partner]
            mixed = mixed.to(self.device, memory_format=torch.channels_last)
            targets = ((share, labels.to(self.device)), (1.0 - share, labels[partner].to(self.device)))
            logits, noise = self.run_model(mixed)
            loss = self.settings.noise_weight * noise + self.distance(logits, mixed, targets)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimiser.step()
            self.average.update(self.model)
            losses.append(float(loss.detach()))
            noises.append(float(noise.detach()))
            yield losses[-1]
        self._finish_epoch(losses, noises)

    def _finish_epoch(self, losses: list[float], noises: list[float]) -> None:
        found = self.validate()
        self.history.append(
            Epoch(
                epoch=self.epochs_done + 1,
                input_px=self.input_px(self.epochs_done),
                loss=float(np.mean(losses)),
                noise_db=float(np.mean(noises)) * 10.0 / math.log(10.0) if self.is_noisy() else None,
                top1=found.top1,
                macro_top1=found.macro_top1,
            )
        )
        self.save_state()

    def is_noisy(self) -> bool:
        """True if the current epoch trains with the noise of int8."""
        return self.noise is not None and self.epochs_done >= self.settings.noise_from * self.settings.epochs

    def run_model(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the logits of a batch, and the noise that int8 would add to them; 0 in epochs without noise."""
        if self.noise is None or not self.is_noisy():
            return self.model(images), torch.zeros(())
        return self.noise.measure(images)

    def distance(self, logits: Tensor, images: Tensor, targets: tuple[tuple[float, Tensor], ...]) -> Tensor:
        """Computes the distance of logits from the labels, and from the teacher's logits of the same images.

        Args:
            logits: ``(N, C)``.
            images: ``(N, 3, S, S)``, the student's input.
            targets: pairs of a share in the mixture and the labels ``(N,)``.
        """
        smoothing = self.settings.label_smoothing
        labelled = [share * functional.cross_entropy(logits, labels, label_smoothing=smoothing) for share, labels in targets]
        from_labels = torch.stack(labelled).sum()
        if self.teacher is None:
            return from_labels
        temperature = self.settings.temperature
        with torch.no_grad():
            wanted = functional.log_softmax(self.teacher(images) / temperature, dim=1)
        given = functional.log_softmax(logits / temperature, dim=1)
        from_teacher = functional.kl_div(given, wanted, log_target=True, reduction="batchmean") * temperature**2
        return self.settings.distillation * from_teacher + (1.0 - self.settings.distillation) * from_labels

    def validate(self) -> Score:
        """Measures the accuracy of the averaged weights on the validation split, at the size of `TrainingSettings.test_px`."""
        return score(self.validation_logits(), self.validation_labels())

    def validation_logits(self) -> NDArray[np.float32]:
        """Computes the logits of the averaged weights on the validation split, ``(N, C)``."""
        return predict(self.average.model.eval(), self.validation_set.samples, self.spec)

    def validation_labels(self) -> NDArray[np.int64]:
        """Gives the labels of the validation split, ``(N,)``: indices of classes."""
        return np.asarray([sample.label for sample in self.validation_set.samples], np.int64)
