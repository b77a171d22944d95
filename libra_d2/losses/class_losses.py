"""Losses of the RoI classifier for classes of unequal size: weights, focal loss, Seesaw loss."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_d2.checks import UserError, choice, number, value_of
from libra_d2.losses.registry import CLASS_LOSS_REGISTRY, ClassLoss

KEY = "MODEL.LIBRA.CLASS_LOSS"


def focal_cross_entropy(scores: Tensor, classes: Tensor, gamma: float) -> Tensor:
    """``(1 - p)^gamma`` times the cross entropy, where ``p`` is the softmax probability of the right class.

    Lin et al., "Focal loss for dense object detection" (ICCV 2017), equation 4, with a softmax in the place of their
    sigmoids: RoI heads know a background class.

    Args:
        scores: logits [R, K + 1].
        classes: int64 [R].
        gamma: 0 is plain cross entropy.

    Returns:
        float [R].
    """
    loss = F.cross_entropy(scores, classes, reduction="none")
    wrong = (-torch.expm1(-loss)).clamp(min=1e-12)  # a gamma below 1 has no slope at 0
    return wrong.pow(gamma) * loss if gamma else loss


@CLASS_LOSS_REGISTRY.register()
def cross_entropy(cfg) -> ClassLoss:
    """Softmax cross entropy."""
    return functools.partial(F.cross_entropy, reduction="none")


@CLASS_LOSS_REGISTRY.register()
def focal(cfg) -> ClassLoss:
    """:func:`focal_cross_entropy` with ``FOCAL_GAMMA``."""
    return functools.partial(focal_cross_entropy, gamma=_at_least_zero(cfg, "FOCAL_GAMMA"))


@CLASS_LOSS_REGISTRY.register()
class seesaw(nn.Module):
    """Seesaw loss (Wang et al., CVPR 2021): softmax cross entropy in which rare classes are pushed down less.

    The logit of a wrong class j in a box of class i is raised by ``log(M * C)``:

    * mitigation, ``M = (count_j / count_i)^P`` where j has been seen less often than i, so that frequent classes do not
      punish rare ones;
    * compensation, ``C = (p_j / p_i)^Q`` where j has the higher probability, so that mistakes are punished still.

    Counts are of all boxes since the start of training on this rank, in the buffer ``counts`` (float [K]). As the paper
    leaves the background to a separate classifier, it is left out of both factors here; boxes of the background have
    plain cross entropy.
    """

    smallest_probability = 0.01  # below which p_i counts as this

    def __init__(self, cfg):
        super().__init__()
        self.p, self.q = _at_least_zero(cfg, "SEESAW_P"), _at_least_zero(cfg, "SEESAW_Q")
        self.register_buffer("counts", torch.zeros(cfg.MODEL.ROI_HEADS.NUM_CLASSES))

    def forward(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Of logits [R, K + 1] and classes int64 [R]: float [R]. Where it is trained, the classes are counted."""
        num_classes = len(self.counts)
        is_object = classes < num_classes
        some_class = classes.clamp(max=num_classes - 1)
        if self.training and torch.is_grad_enabled():  # a sampler may have asked for the losses of all proposals
            self.counts.index_add_(0, some_class, is_object.to(self.counts.dtype))
        # Everything as logarithms: a factor of 0 would be minus infinity in its turn.
        log_counts = self.counts.clamp(min=1).log().to(scores.dtype)
        mitigation = self.p * (log_counts - log_counts[some_class, None]).clamp(max=0)
        log_p = scores.detach()[:, :num_classes].log_softmax(1)
        log_right = log_p.gather(1, some_class[:, None]).clamp(min=math.log(self.smallest_probability))
        compensation = self.q * (log_p - log_right).clamp(min=0)
        factors = F.pad(mitigation + compensation, (0, 1)) * is_object[:, None]
        is_wrong = torch.ones_like(scores).scatter_(1, classes[:, None], 0.0)
        return F.cross_entropy(scores + factors * is_wrong, classes, reduction="none")


class WeightedLoss(nn.Module):
    """A class loss times a weight for each class, float [K + 1] with the background last."""

    def __init__(self, loss: ClassLoss, weights: list[float]):
        super().__init__()
        self.loss = loss
        self.register_buffer("weights", torch.tensor(weights), persistent=False)  # the config has them

    def forward(self, scores: Tensor, classes: Tensor) -> Tensor:
        return self.loss(scores, classes) * self.weights[classes].to(scores.dtype)


def build_class_loss(cfg) -> ClassLoss | None:
    """What ``MODEL.LIBRA.CLASS_LOSS`` says; None for plain cross entropy, which is left to Detectron2.

    Raises:
        UserError: an unknown name, or weights that do not fit the classes.
    """
    name, weights = choice(cfg, f"{KEY}.NAME", CLASS_LOSS_REGISTRY), list(value_of(cfg, f"{KEY}.WEIGHTS"))
    if name == "cross_entropy" and not weights:
        return None
    if cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE:
        raise UserError(
            f"{KEY}: expected cross_entropy without WEIGHTS where MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE is True, as these "
            f"losses are of a softmax, got {name!r} with {len(weights)} weights"
        )
    loss = CLASS_LOSS_REGISTRY[name](cfg)
    if not weights:
        return loss
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(weights) not in (num_classes, num_classes + 1) or not all(0 <= weight < math.inf for weight in weights):
        raise UserError(
            f"{KEY}.WEIGHTS: expected {num_classes} numbers of at least 0, one for each class, or one more for the "
            f"background, got {weights}"
        )
    return WeightedLoss(loss, [*map(float, weights), 1.0][: num_classes + 1])


def _at_least_zero(cfg, name: str) -> float:
    return number(cfg, f"{KEY}.{name}", "a finite number of at least 0", lambda x: 0 <= x < math.inf)
