"""The pictures of an evaluation: precision and recall, what is taken for what, which mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from libra_d2.visualize.style import BLUE, BLUES, GREY, INK, new_figure, styled

_MOST_CLASSES = 20
_TOLD = {"localisation": "badly localised", "class": "wrong class"}


@styled
def plot_curves(recall: np.ndarray, precision: dict[float, np.ndarray]) -> Figure:
    """Precision over recall, a line for each IoU, each the mean of the classes."""
    figure, (axes,) = new_figure(1, 5.0, 3.8)
    for (iou, values), color in zip(precision.items(), (BLUE, GREY), strict=False):
        axes.plot(recall, values, color=color, linewidth=2, label=f"IoU {iou:g}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left")
    return figure


@styled
def plot_mistakes(kinds: dict[str, int], missed: int) -> Figure:
    """How many detections are correct, or wrong in which way, and how many objects are missed."""
    figure, (axes,) = new_figure(1, 5.0, 3.8)
    counts = {**kinds, "missed": missed}
    colors = [BLUES[2] if name == "correct" else GREY for name in counts]
    bars = axes.barh([_TOLD.get(name, name) for name in counts], list(counts.values()), color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.15 * max(1, *counts.values()))
    axes.set(xlabel="detections; missed: objects")
    axes.set_title("Detections by kind")
    return figure


@styled
def plot_confusion(confusion: np.ndarray, names: Sequence[str]) -> Figure:
    """Objects of a class (row) by what they were found as (column), in parts of the row.

    Of more than 20 classes, those that are mistaken most often.
    """
    wrong = confusion[:-1].sum(1) - confusion[:-1, :-1].diagonal()
    kept = sorted(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
    rows = [*kept, len(names)]
    counts = confusion[np.ix_(rows, rows)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    labels = [names[k] for k in kept]
    size = 2.6 + 0.38 * len(rows)
    figure, (axes,) = new_figure(1, size, size)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    places = range(len(rows))
    axes.set_xticks(places, [*labels, "(nothing)"], rotation=60, ha="right")
    axes.set_yticks(places, [*labels, "(nothing)"])
    for (row, column), number in np.ndenumerate(counts):
        if number:
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{number:,}", ha="center", va="center", fontsize=8, color=color)
    axes.set(xlabel="found as", ylabel="object")
    chosen = f" ({len(kept)} of {len(names)} classes)" if len(kept) < len(names) else ""
    axes.set_title(f"What is taken for what{chosen}")
    return figure
