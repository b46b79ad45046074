"""The curves of a training run, drawn: loss, accuracy, and the noise of int8 where it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from converter.train.trainer import Epoch


def draw_curves(history: Sequence[Epoch], title: str, out: Path) -> None:
    """Draws a PNG, replaced atomically: it can be looked at while the run goes on.

    Args:
        history: at least one epoch.
        title: above the curves.
        out: where to.
    """
    noisy = [epoch for epoch in history if epoch.noise_db is not None]
    figure = Figure(figsize=(8, 3.2 * (3 if noisy else 2)), layout="constrained")
    axes: Sequence[Any] = figure.subplots(3 if noisy else 2, sharex=True)
    figure.suptitle(title)
    epochs = [epoch.epoch for epoch in history]
    axes[0].plot(epochs, [epoch.loss for epoch in history])
    axes[0].set_ylabel("training loss")
    axes[1].plot(epochs, [100 * epoch.top1 for epoch in history], label="top-1")
    axes[1].plot(epochs, [100 * epoch.macro_top1 for epoch in history], label="mean over classes")
    axes[1].set_ylabel("validation accuracy, %")
    axes[1].legend()
    if noisy:
        axes[2].plot([epoch.epoch for epoch in noisy], [-(epoch.noise_db or 0.0) for epoch in noisy])
        axes[2].set_ylabel("signal to int8 noise, dB\n(training batches)")
    axes[-1].set_xlabel("epoch")
    for axis in axes:
        axis.grid(alpha=0.3)
    scratch = out.with_suffix(".partial")
    figure.savefig(scratch, format="png", dpi=110)
    scratch.replace(out)
