"""The balanced L1 loss (Libra R-CNN, section 3.3)."""

import functools
import math

import torch
from torch import Tensor

from libra_d2.checks import choice, number
from libra_d2.losses.registry import BOX_LOSS_REGISTRY, BoxLoss

VARIANTS = ("paper", "mmdet")
_REDUCTIONS = ("none", "sum", "mean")
_MAX_RATIO = 80.0  # of gamma / alpha; beyond it b = exp(gamma / alpha) - 1 leaves the range of float32


def balanced_l1_loss(
    pred: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    variant: str = "paper",
    reduction: str = "none",
) -> Tensor:
    """L1 loss whose gradient is promoted for small errors: ``alpha * ln(b * x + 1)`` below 1 and ``gamma`` above.

    ``b = exp(gamma / alpha) - 1`` makes the two meet. With ``d = |pred - target|`` the loss is, for ``d < beta``,

    * "paper": ``alpha / b * (b * d + beta) * ln(b * d / beta + 1) - alpha * d``, which is ``beta * loss(d / beta)`` of
      the published loss and as smooth for every ``beta``;
    * "mmdet": ``alpha / b * (b * d + 1) * ln(b * d / beta + 1) - alpha * d``, as MMDetection computes it. Its slope at
      0 is ``alpha * (1 / beta - 1)`` and it has a kink at ``beta``; both variants agree for ``beta = 1``.

    Above, it is a line of slope ``gamma`` that continues the value. Half-precision inputs are upcast to float32.

    Args:
        pred: predictions of any shape.
        target: of the shape of ``pred``.
        alpha: the smaller, the larger the gradient of small errors, and the closer the loss to L1.
        gamma: the largest gradient.
        beta: the error where the gradient reaches ``gamma``.
        variant: "paper" or "mmdet".
        reduction: "none", "sum" or "mean". The mean of nothing is 0, and has a gradient.

    Returns:
        The loss of the shape of ``pred``, or a scalar.

    Raises:
        ValueError: shapes differ, a parameter is not positive and finite, ``gamma / alpha`` is above 80, or a name is
            unknown.
    """
    for name, value in (("alpha", alpha), ("gamma", gamma), ("beta", beta)):
        if not 0 < value < math.inf:
            raise ValueError(f"balanced_l1_loss: expected {name} to be positive and finite, got {value}")
    if gamma / alpha > _MAX_RATIO:
        raise ValueError(f"balanced_l1_loss: expected gamma / alpha of at most {_MAX_RATIO}, got {gamma / alpha}")
    for name, value, allowed in (("variant", variant, VARIANTS), ("reduction", reduction, _REDUCTIONS)):
        if value not in allowed:
            raise ValueError(f"balanced_l1_loss: expected {name} to be one of {', '.join(allowed)}, got {value!r}")
    if pred.shape != target.shape:
        raise ValueError(
            f"balanced_l1_loss: expected target of the shape of pred, {list(pred.shape)}, got {list(target.shape)}"
        )
    if pred.dtype in (torch.float16, torch.bfloat16):
        pred = pred.float()
    b = math.expm1(gamma / alpha)
    offset = beta if variant == "paper" else 1.0
    diff = (pred - target).abs()
    # Below beta only, so that no overflow in the branch that is not taken makes the gradient NaN.
    small = diff.clamp(max=beta)
    curve = alpha * (small + offset / b) * torch.log1p(b * (small / beta)) - alpha * small
    line = gamma * diff + (offset * gamma / b - alpha * beta)
    loss = torch.where(diff < beta, curve, line)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / max(1, loss.numel())


def balanced_l1_options(cfg) -> dict:
    """The keyword arguments of :func:`balanced_l1_loss` that ``MODEL.LIBRA.BALANCED_L1`` describes.

    Raises:
        UserError: a value that the loss would refuse.
    """
    key = "MODEL.LIBRA.BALANCED_L1"
    options = {
        name.lower(): number(cfg, f"{key}.{name}", "a finite number above 0", lambda x: 0 < x < math.inf)
        for name in ("ALPHA", "GAMMA", "BETA")
    }
    most = _MAX_RATIO * options["alpha"]
    number(cfg, f"{key}.GAMMA", f"at most {_MAX_RATIO:g} times ALPHA, {most:g}", lambda x: x <= most)
    return {**options, "variant": choice(cfg, f"{key}.VARIANT", VARIANTS)}


@BOX_LOSS_REGISTRY.register()
def balanced_l1(cfg) -> BoxLoss:
    """:func:`balanced_l1_loss` as ``MODEL.LIBRA.BALANCED_L1`` says."""
    return balanced_l1_of(**balanced_l1_options(cfg))


def balanced_l1_of(**options) -> BoxLoss:
    """:func:`balanced_l1_loss` with these keyword arguments, as the ``box_loss`` of a model; for LazyConfigs."""
    return functools.partial(balanced_l1_loss, **options)
