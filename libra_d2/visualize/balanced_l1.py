"""The gradient and the value of the balanced L1 loss, smooth L1 and L1 (Libra R-CNN, figure 5)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fvcore.nn import smooth_l1_loss
from matplotlib.figure import Figure
from torch import Tensor

from libra_d2.losses import balanced_l1_loss
from libra_d2.visualize.style import BLUE, BLUES, GREY, INK, ORANGE, new_figure, styled

ALPHAS = (0.2, 0.3, 0.5, 1.0)
LARGEST_ERROR = 2.0
ACCURATE = 1.0  # the paper calls samples with a smaller error inliers


@styled
def plot_balanced_l1(options: dict, errors: Tensor) -> Figure:
    """Draws gradients and losses over the error, and which errors of your own model the gradient comes from.

    Args:
        options: keyword arguments of :func:`libra_d2.losses.balanced_l1_loss`; the curves vary ``alpha``.
        errors: float32 [P, 4], see :class:`libra_d2.visualize.recorder.Record`.
    """
    figure, (gradients, losses, shares) = new_figure(3, 13.0, 4.0)
    x = torch.linspace(0, LARGEST_ERROR, 401)
    for axes, column, title in ((gradients, 1, "Gradient"), (losses, 0, "Loss")):
        for color, alpha in zip(BLUES, ALPHAS, strict=True):
            curve = value_and_gradient(x, _balanced({**options, "alpha": alpha}))[column]
            axes.plot(x, curve, color=color, linewidth=2, label=f"balanced L1, α = {alpha:g}")
        axes.plot(x, value_and_gradient(x, _smooth)[column], color=ORANGE, linewidth=2, label="smooth L1")
        axes.plot(x, value_and_gradient(x, _l1)[column], color=GREY, linewidth=2, label="L1")
        axes.set(xlabel="regression error", xlim=(0, LARGEST_ERROR), ylim=(0, None))
        axes.set_title(title)
    gradients.legend(loc="lower right", fontsize=8.5)

    x, table = gradient_shares(options, errors)
    alpha = options["alpha"]
    for name, color, label in (
        ("coordinates", GREY, "coordinates"),
        ("smooth_l1", ORANGE, "gradient of smooth L1"),
        ("balanced_l1", BLUE, f"gradient of balanced L1, α = {alpha:g}"),
    ):
        inlier = 100 * float(np.interp(ACCURATE, x, table[name]))
        shares.plot(x, 100 * table[name], color=color, linewidth=2, label=f"{label}: {inlier:.0f} %")
        shares.plot([ACCURATE], [inlier], "o", color=color, markersize=5)
    shares.axvline(ACCURATE, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    shares.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    shares.set(xlabel="errors up to", xlim=(0, x[-1]), ylim=(0, 105), ylabel="share of the total")
    shares.set_title(f"Own data: {len(errors):,} positive boxes")
    legend = shares.legend(
        loc="lower right",
        fontsize=8.5,
        title=f"share of errors below {ACCURATE:g} (dashed)",
        frameon=True,
        edgecolor="none",
    )
    legend.get_title().set_fontsize(8.5)
    return figure


def gradient_shares(options: dict, errors: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """How much of the whole gradient comes from errors up to x.

    Returns:
        x [201] and, for "coordinates" (their number), "smooth_l1" and "balanced_l1" (their gradient's magnitude), the
        cumulative share, from 0 to 1.
    """
    flat = errors.flatten().double().sort().values
    weights = {
        "coordinates": torch.ones_like(flat),
        "smooth_l1": value_and_gradient(flat, _smooth)[1],
        "balanced_l1": value_and_gradient(flat, _balanced(options))[1],
    }
    x = np.linspace(0, max(3.0, float(np.quantile(flat, 0.995)) if len(flat) else 0.0), 201)
    reached = np.searchsorted(flat.numpy(), x, side="right")
    shares = {}
    for name, weight in weights.items():
        total = np.concatenate([[0.0], weight.cumsum(0).numpy()])
        shares[name] = total[reached] / max(total[-1], 1e-12)
    return x, shares


def write_balanced_l1_csv(options: dict, errors: Tensor, path: str | Path) -> None:
    """Writes all curves of the picture over one column of errors."""
    x, shares = gradient_shares(options, errors)
    columns = {"error": x, **{f"share_{name}": share for name, share in shares.items()}}
    balanced = {f"balanced_l1_alpha_{a:g}": _balanced({**options, "alpha": a}) for a in ALPHAS}
    curves = {"l1": _l1, "smooth_l1": _smooth, **balanced}
    for name, loss in curves.items():
        columns[f"loss_{name}"], columns[f"gradient_{name}"] = value_and_gradient(torch.from_numpy(x), loss)
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"{float(value):.6f}" for value in row] for row in zip(*columns.values(), strict=True))


def value_and_gradient(x: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, torch.zeros_like(x))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _smooth(pred: Tensor, target: Tensor) -> Tensor:
    return smooth_l1_loss(pred, target, beta=1.0, reduction="none")


def _l1(pred: Tensor, target: Tensor) -> Tensor:
    return smooth_l1_loss(pred, target, beta=0.0, reduction="none")


def _balanced(options: dict) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda pred, target: balanced_l1_loss(pred, target, **options)
