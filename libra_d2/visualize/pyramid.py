"""What the balanced feature pyramid does to each level (Libra R-CNN, section 3.2)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from libra_d2.modeling import BalancedFeaturePyramid
from libra_d2.visualize.style import BLUE, GREY, ORANGE, new_figure, styled


@dataclass(frozen=True)
class LevelStatistics:
    """Statistics of one level's features over some images, in the units of the features.

    Attributes:
        before, residual, after: root mean square of what the ``bottom_up`` gives, of what is added, and of the sum.
        mean_before, mean_after: means over channels, pixels and images.
    """

    before: float
    residual: float
    after: float
    mean_before: float
    mean_after: float


@torch.no_grad()
def measure_levels(model: nn.Module, batches: Iterable[list[dict]]) -> dict[str, LevelStatistics]:
    """Statistics of every level before and after the balanced pyramid, by name; each batch counts the same.

    Args:
        model: a detector whose backbone is a BalancedFeaturePyramid.
        batches: lists of Detectron2's samples; annotations are not used.

    Raises:
        ValueError: the backbone is another, or there is no batch.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, BalancedFeaturePyramid):
        raise ValueError(f"expected a model on a BalancedFeaturePyramid, got {type(backbone).__name__}")
    given: dict[str, torch.Tensor] = {}
    handle = backbone.bottom_up.register_forward_hook(lambda module, inputs, output: given.update(output))
    sums: dict[str, np.ndarray] = {}
    count, was_training = 0, model.training
    try:
        model.eval()
        for batch in batches:
            for name, after in backbone(model.preprocess_image(batch).tensor).items():
                before = given[name]
                squares = [x.square().mean().item() for x in (before, after - before, after)]
                sums[name] = sums.get(name, 0) + np.array([*squares, before.mean().item(), after.mean().item()])
            count += 1
    finally:
        handle.remove()
        model.train(was_training)
    if not count:
        raise ValueError("expected at least one batch of images, got none")
    return {name: LevelStatistics(*np.sqrt(s[:3] / count), *(s[3:] / count)) for name, s in sums.items()}


@styled
def plot_levels(statistics: dict[str, LevelStatistics]) -> Figure:
    """Draws the root mean square of each level before the pyramid, of its residual, and after."""
    figure, (axes,) = new_figure(1, 6.5, 3.6)
    positions = np.arange(len(statistics))
    parts = (("before", GREY, "before"), ("residual", ORANGE, "added by the pyramid"), ("after", BLUE, "after"))
    for place, (part, color, label) in enumerate(parts):
        heights = [getattr(level, part) for level in statistics.values()]
        axes.bar(positions + (place - 1) * 0.27, heights, 0.25, color=color, label=label)
    axes.set_xticks(positions, list(statistics))
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="level", ylabel="root mean square of the features")
    axes.set_title("Features of each level")
    axes.legend()
    return figure


def write_levels_csv(statistics: dict[str, LevelStatistics], path: str | Path) -> None:
    """Writes a row for each level with the five numbers of :class:`LevelStatistics`."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["level", *LevelStatistics.__dataclass_fields__])
        for name, level in statistics.items():
            writer.writerow([name, *(f"{value:.6g}" for value in vars(level).values())])
