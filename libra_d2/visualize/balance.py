"""The IoU of the negatives that are trained on, picked at random and balanced (Libra R-CNN, figure 3)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from libra_d2.visualize.recorder import Record
from libra_d2.visualize.style import BLUE, GREY, INK, ORANGE, new_figure, styled

NUM_BARS = 30


@styled
def plot_balance(record: Record) -> Figure:
    """Draws the IoU histogram of all negatives and of both kinds of picks, and how much each interval gets."""
    figure, (histogram, intervals) = new_figure(2, 10.5, 4.0)
    edges, counts = _histogram(record)
    shares = {name: 100 * count / max(count.sum(), 1) for name, count in counts.items()}

    histogram.stairs(shares["all negatives"], edges, fill=True, color=GREY, alpha=0.45, label="all negatives")
    histogram.stairs(shares["picked at random"], edges, color=ORANGE, linewidth=2, label="picked at random")
    histogram.stairs(shares["IoU-balanced picks"], edges, color=BLUE, linewidth=2, label="IoU-balanced picks")
    drawn = np.concatenate(list(shares.values()))
    if drawn.any():
        histogram.set_yscale("log")
        histogram.set_ylim(bottom=drawn[drawn > 0].min() / 2)
    histogram.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    for edge in record.bins[1:-1]:
        histogram.axvline(edge, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    histogram.set(xlabel="IoU with the best ground truth", ylabel="share of the negatives (log scale)")
    histogram.set_title("IoU of the negatives")
    histogram.legend(loc="upper right", frameon=True, edgecolor="none")

    groups = interval_shares(record)
    width, positions = 0.27, np.arange(len(record.bins) - 1)
    for place, (name, color) in enumerate(
        [("all negatives", GREY), ("picked at random", ORANGE), ("IoU-balanced picks", BLUE)]
    ):
        bars = intervals.bar(positions + (place - 1) * width, groups[name], width * 0.94, color=color, label=name)
        intervals.bar_label(bars, fmt="%.0f %%", padding=2, fontsize=8.5)
    names = [f"{low:.2f} – {high:.2f}" for low, high in zip(record.bins, record.bins[1:], strict=False)]
    intervals.set_xticks(positions, names)
    intervals.set_ylim(0, 1.35 * max(max(map(max, groups.values())), 1))
    intervals.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    intervals.grid(axis="x", visible=False)
    intervals.set(xlabel="IoU interval", ylabel="share of the negatives")
    intervals.set_title("What each interval gets")
    intervals.text(
        0.99,
        0.97,
        f"{record.num_images} images, {len(record.negatives):,} negatives,\n{len(record.balanced):,} picked each way",
        transform=intervals.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
    )
    return figure


def interval_shares(record: Record) -> dict[str, list[float]]:
    """Percent of the negatives that lie in each of the sampler's IoU intervals, of all and of both kinds of picks.

    What lies above the last interval counts as part of it (it can be reached by the refill alone).
    """
    shares = {}
    for name, ious in _sets(record).items():
        counts, _ = np.histogram(ious.clip(record.bins[0], record.bins[-1]), record.bins)
        shares[name] = (100 * counts / max(counts.sum(), 1)).tolist()
    return shares


def write_balance_csv(record: Record, path: str | Path) -> None:
    """Writes the histogram: a row for each bar with its IoU range and the three counts."""
    edges, counts = _histogram(record)
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iou_from", "iou_to", *(name.replace(" ", "_") for name in counts)])
        for bar in range(NUM_BARS):
            writer.writerow(
                [f"{edges[bar]:.6f}", f"{edges[bar + 1]:.6f}", *(int(count[bar]) for count in counts.values())]
            )


def _sets(record: Record) -> dict[str, np.ndarray]:
    return {
        "all negatives": record.negatives.numpy(),
        "picked at random": record.random.numpy(),
        "IoU-balanced picks": record.balanced.numpy(),
    }


def _histogram(record: Record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    sets = _sets(record)
    top = max(record.bins[-1], *(float(ious.max()) if len(ious) else 0.0 for ious in sets.values()))
    edges = np.linspace(0.0, top, NUM_BARS + 1)
    return edges, {name: np.histogram(ious, edges)[0] for name, ious in sets.items()}
