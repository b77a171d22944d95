"""Prime samples: positives that matter most for AP weigh most (PISA: Cao et al., CVPR 2020)."""

import math

import torch
from torch import Tensor

from libra_d2.checks import UserError, number


def prime_sample_weights(
    ious: Tensor, objects: Tensor, classes: Tensor, class_losses: Tensor, *, gamma: float = 2.0, beta: float = 0.0
) -> Tensor:
    """The weight of each positive's classification loss (importance-based sample reweighting, section 4.2).

    The boxes of one class are put in order: the best box of every object first, by IoU, then the second best of every
    object, and so on ("IoU hierarchical local rank"). A rank r from 0 becomes ``u = (n - r) / n``, where ``n`` is the
    number of boxes of the most frequent class, and the weight ``(beta + (1 - beta) * u)^gamma``. All weights are then
    scaled so that the sum of the losses is what it was.

    Args:
        ious: float [P], IoU of each predicted, not proposed, box with its object.
        objects: int64 [P], which object each box is matched to; any numbers, distinct over the batch.
        classes: int64 [P].
        class_losses: float [P], the classification loss of each box.
        gamma, beta: exponent and smallest base of the weights.

    Returns:
        float [P], without a gradient; empty where there is no positive.
    """
    with torch.no_grad():
        if not len(ious):
            return torch.zeros_like(ious)
        order = ious.argsort(descending=True, stable=True)
        rank_in_object = _ranks(objects, order)
        order = order[rank_in_object[order].argsort(stable=True)]
        rank_in_class = _ranks(classes, order)
        most = classes.bincount().max()
        weights = (beta + (1 - beta) * (most - rank_in_class) / most).pow(gamma)
        return weights * class_losses.sum() / (weights * class_losses).sum().clamp(min=torch.finfo(ious.dtype).tiny)


def _ranks(groups: Tensor, order: Tensor) -> Tensor:
    """int64 [P]: the place of each row among the rows of its group, which come in the order ``order``."""
    by_group = order[groups[order].argsort(stable=True)]
    sorted_groups = groups[by_group]
    first = torch.searchsorted(sorted_groups, sorted_groups)
    places = torch.arange(len(groups), device=groups.device) - first
    return torch.empty_like(places).scatter_(0, by_group, places)


def prime_sample_options(cfg) -> dict[str, float] | None:
    """The keyword arguments of :func:`prime_sample_weights` that ``MODEL.LIBRA.PISA`` describes; None where it is off.

    Raises:
        UserError: a value out of range, or federated loss, which has no loss of each box.
    """
    key = "MODEL.LIBRA.PISA"
    if not cfg.MODEL.LIBRA.PISA.ENABLED:
        return None
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS:
        raise UserError(f"{key}.ENABLED: expected False where MODEL.ROI_BOX_HEAD.USE_FED_LOSS is True, got True")
    return {
        "gamma": number(cfg, f"{key}.GAMMA", "a finite number of at least 0", lambda x: 0 <= x < math.inf),
        "beta": number(cfg, f"{key}.BETA", "a number from 0 to 1", lambda x: 0 <= x <= 1),
    }
