"""Detections beside the ground truth, on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.patheffects as path_effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from libra_d2.visualize.style import new_figure, styled

TRUTH = "#ffffff"
DETECTION = "#ffd400"


@dataclass(frozen=True)
class Scene:
    """One image, what is in it and what was found.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        truth: float [G, 4], XYXY pixels.
        boxes: float [D, 4], XYXY pixels.
        scores: float [D].
        labels: a name for each detection, or "" for none.
    """

    image: np.ndarray
    truth: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: Sequence[str]


@styled
def plot_detections(scenes: Sequence[Scene], inches: float = 4.2) -> Figure:
    """Draws images side by side: ground truth dashed in white, detections in yellow with their score in percent."""
    figure, panels = new_figure(len(scenes), inches * len(scenes), inches + 0.35)
    for axes, scene in zip(panels, scenes, strict=True):
        _draw(axes, scene, fontsize=6.5)
    outline = [path_effects.withStroke(linewidth=3, foreground="#444444")]
    handles = [
        Line2D([], [], color=DETECTION, linewidth=2, path_effects=outline, label="detection, score in %"),
        Line2D([], [], color=TRUTH, linewidth=1.5, linestyle=(0, (3, 2)), path_effects=outline, label="ground truth"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


@styled
def plot_scene(scene: Scene, inches: float = 5.0) -> Figure:
    """Draws one image like :func:`plot_detections`, without a legend; its longer side has so many inches."""
    height, width = scene.image.shape[:2]
    figure, (axes,) = new_figure(1, *(inches * side / max(height, width) for side in (width, height)))
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    _draw(axes, scene, fontsize=8)
    return figure


def _draw(axes: Axes, scene: Scene, fontsize: float) -> None:
    axes.imshow(scene.image, interpolation="lanczos")
    axes.axis("off")
    for box in scene.truth:
        _rectangle(axes, box, TRUTH, linestyle=(0, (3, 2)), linewidth=1.1)
    for box, score, label in zip(scene.boxes, scene.scores, scene.labels, strict=True):
        _rectangle(axes, box, DETECTION, linewidth=1.5)
        is_at_top = box[1] < 0.04 * len(scene.image)  # no room for the label above it
        axes.text(
            box[0] + 1,
            box[1] + 1 if is_at_top else box[1] - 1,
            f"{label} {100 * score:.0f}".strip(),
            color=DETECTION,
            fontsize=fontsize,
            va="top" if is_at_top else "bottom",
            clip_on=True,
            path_effects=[path_effects.withStroke(linewidth=1.6, foreground="black")],
        )


def _rectangle(axes: Axes, box: np.ndarray, color: str, **style) -> None:
    x0, y0, x1, y1 = (float(value) for value in box)
    patch = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, **style)
    patch.set_path_effects([path_effects.withStroke(linewidth=style["linewidth"] + 1.2, foreground="#00000099")])
    axes.add_patch(patch)
