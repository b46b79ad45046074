"""Quantisation-aware training with noise instead of rounding, so that int8 costs a network little accuracy.

A few images of each batch go through the network twice: as they are, and with noise added wherever an int8 artefact rounds.
The noise of a tensor is uniform and one step wide, and the step is the tensor's range over 255. The gradient thus narrows the
ranges that matter, and makes the network robust to the remaining noise. The loss is the figure that the converter checks: noise
over signal at the logits.

References:
    Rounding as uniform noise: Widrow & Kollar, "Quantization Noise", 2008, chapter 4. Training with such noise instead of a
    straight-through estimator: Défossez et al., "Differentiable Model Compression via Pseudo Quantization Noise", TMLR 2022
    (arXiv 2104.09987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_STEPS = 255  # of an int8 activation
_WEIGHT_STEPS = 254  # of an int8 weight: symmetric, from -127 to 127
_SMALLEST = 1e-6  # keeps the logarithm and the range of a zero tensor finite
_SEQUENCE_LENGTH = 1 << 23
_UNROUNDED_MODULES = (nn.Identity, nn.Dropout)
_UNROUNDED_FUNCTIONS = (torch.flatten, functional.dropout)


@dataclass(frozen=True)
class _Streams:
    """A value of the graph, twice: ``clean`` for all images, ``noisy`` for the first few."""

    clean: Tensor
    noisy: Tensor


class QuantisationNoise(fx.Interpreter):
    """Runs a network in training mode, and measures the noise that rounding it to int8 would add to its logits.

    Args:
        model: traceable by `torch.fx`; its parameters are shared, not copied.
        images: number of images of a batch that are run a second time, with noise.
    """

    def __init__(self, model: nn.Module, images: int = 16) -> None:
        traced = fx.symbolic_trace(model.train())  # tracing fixes whether dropout is on
        super().__init__(traced)
        self._modules = dict(traced.named_modules())
        self._images = images
        self._sequence = torch.rand(_SEQUENCE_LENGTH, generator=torch.Generator().manual_seed(0)) - 0.5
        self._rounded = {node.name for node in traced.graph.nodes if self._is_rounded(node)}

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Runs a batch.

        Args:
            images: ``(N, 3, H, W)`` float32, normalised; ``N`` at least 2.

        Returns:
            Logits ``(N, C)``, and the natural logarithm of noise power over signal power at the logits, a scalar. Both powers
            are without the mean over the classes, since no decision depends on it.
        """
        self.module.train()
        logits = self.run(_Streams(images, images[: self._images]))
        reference = logits.clean[: self._images]
        noise = _variance_over_classes(logits.noisy - reference)
        signal = _variance_over_classes(reference)
        return logits.clean, torch.log(noise + _SMALLEST) - torch.log(signal + _SMALLEST)

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node on both streams, and adds noise to the noisy one if int8 would round the result."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op in ("placeholder", "output", "get_attr"):
            return getattr(self, n.op)(n.target, args, kwargs)
        module = self._modules.get(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, nn.BatchNorm2d):
            result = _normalise(module, args[0])
        elif isinstance(module, nn.Conv2d | nn.Linear):
            result = _Streams(module(args[0].clean), _apply_noisy_weights(module, args[0].noisy))
        elif n.target is functional.dropout:
            result = _drop_alike(args[0], kwargs["p"])
        else:
            result = self._run_both(n, args, kwargs)
        return self._add_noise(result) if n.name in self._rounded else result

    def _run_both(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Streams:
        def run(stream: str) -> Any:
            chosen = fx.node.map_aggregate(args, lambda value: getattr(value, stream) if isinstance(value, _Streams) else value)
            return getattr(self, n.op)(n.target, chosen, kwargs)

        return _Streams(run("clean"), run("noisy"))

    def _add_noise(self, value: _Streams) -> _Streams:
        step = _range(value.noisy) / _STEPS
        return _Streams(value.clean, value.noisy + self._draw(value.noisy) * step)

    def _draw(self, like: Tensor) -> Tensor:
        """Gives noise from -1/2 to 1/2 in a tensor's shape: a part of a long sequence, as drawing takes longer than adding."""
        count = like.numel()
        if like.device != self._sequence.device or count > len(self._sequence):
            return torch.rand_like(like) - 0.5
        start = int(torch.randint(len(self._sequence) - count + 1, ()))
        drawn = self._sequence[start : start + count]
        if like.dim() != 4:
            return drawn.view_as(like)
        images, channels, height, width = like.shape
        return drawn.view(images, height, width, channels).permute(0, 3, 1, 2)  # in the memory order of activations

    def _is_rounded(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            if isinstance(self._modules[str(node.target)], _UNROUNDED_MODULES):
                return False
        elif node.op not in ("call_function", "call_method") or node.target in _UNROUNDED_FUNCTIONS:
            return False
        users = [self._modules.get(str(user.target)) for user in node.users]
        # A batch norm is folded into the convolution before it, and a value that only a ReLU takes is rounded after the ReLU.
        return not (len(users) == 1 and isinstance(users[0], nn.BatchNorm2d | nn.ReLU))


def _variance_over_classes(logits: Tensor) -> Tensor:
    return (logits - logits.mean(dim=1, keepdim=True)).square().mean()


def _normalise(module: nn.BatchNorm2d, value: _Streams) -> _Streams:
    """Normalises both streams by the same statistics; otherwise they would differ by their batches."""
    normalised = module(torch.cat((value.clean, value.noisy)))
    return _Streams(*torch.split(normalised, [value.clean.shape[0], value.noisy.shape[0]]))


def _drop_alike(value: _Streams, share: float) -> _Streams:
    """Drops the same values of both streams."""
    kept = functional.dropout(torch.ones_like(value.clean), share)
    return _Streams(value.clean * kept, value.noisy * kept[: value.noisy.shape[0]])


def _apply_noisy_weights(module: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    weight = module.weight
    axes = list(range(1, weight.dim()))
    step = 2.0 * weight.abs().amax(dim=axes, keepdim=True) / _WEIGHT_STEPS
    noisy = weight + (torch.rand_like(weight) - 0.5) * step
    if isinstance(module, nn.Linear):
        return functional.linear(x, noisy, module.bias)
    return functional.conv2d(x, noisy, module.bias, module.stride, module.padding, module.dilation, module.groups)


def _range(values: Tensor) -> Tensor:
    """Computes the range that an int8 tensor has to span: the largest value less the smallest, with 0 among them."""
    flat = values.permute(0, 2, 3, 1).reshape(-1) if values.dim() == 4 else values.reshape(-1)
    found = flat.detach()
    # By index, since `amax` distributes its gradient over all equal values, and a ReLU gives millions of zeros.
    high = flat[found.argmax()].clamp_min(0.0)
    low = flat[found.argmin()].clamp_max(0.0) if float(found.min()) < 0.0 else 0.0
    return (high - low).clamp_min(_SMALLEST)
