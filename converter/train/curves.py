"""Draws the curves of a training run: loss, accuracy, and the noise of int8 where it was trained for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.train.trainer import Epoch
from device.core.durable import write_durably
from device.report.drawing import Palette, add_axes, encode_png, new_figure, write_heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN = 8.0
_PLOT_IN = 2.4
_HEAD_IN = 0.45


def draw_curves(history: Sequence[Epoch], title: str, out: Path) -> None:
    """Draws a PNG, replaced atomically: it can be viewed during the training.

    Args:
        history: at least one epoch.
        title: above the curves.
        out: the file.
    """
    write_durably(out, encode_png(lambda palette: _draw(history, title, palette)))


def _draw(history: Sequence[Epoch], title: str, palette: Palette) -> Figure:
    plots = {
        "Training loss": {"": [epoch.loss for epoch in history]},
        "Validation accuracy, %": {
            "top-1": [100 * epoch.top1 for epoch in history],
            "mean over classes": [100 * epoch.macro_top1 for epoch in history],
        },
    }
    if any(epoch.noise_db is not None for epoch in history):
        signal_db = [math.nan if epoch.noise_db is None else -epoch.noise_db for epoch in history]
        plots["Signal to int8 noise, dB (training batches)"] = {"": signal_db}
    bottom_in = height_in = len(plots) * (_PLOT_IN + _HEAD_IN) + 0.5
    figure = new_figure(_WIDTH_IN, height_in, palette)
    for heading, curves in plots.items():
        bottom_in -= _PLOT_IN + _HEAD_IN
        axes = add_axes(figure, palette, (0.5, bottom_in, _WIDTH_IN - 0.6, _PLOT_IN), grid="both")
        axes.set_xlim(history[0].epoch - 0.5, history[-1].epoch + 0.5)
        axes.locator_params(axis="x", integer=True)
        write_heading(axes, heading, palette)
        for (label, values), colour in zip(curves.items(), (palette.first, palette.second), strict=False):
            axes.plot([epoch.epoch for epoch in history], values, color=colour, label=label)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor="linecolor")
    axes.set_xlabel("epoch")
    figure.suptitle(title, color=palette.ink, y=1 + 0.15 / height_in)
    return figure
