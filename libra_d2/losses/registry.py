"""Box losses by name: the values of ``BBOX_REG_LOSS_TYPE`` that the RoI heads and RetinaNet of libra_d2 add."""

from collections.abc import Callable

from fvcore.common.registry import Registry
from torch import Tensor

BoxLoss = Callable[[Tensor, Tensor], Tensor]

BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
BOX_LOSS_REGISTRY.__doc__ = """
Losses of box deltas, chosen by ``MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE`` or ``MODEL.RETINANET.BBOX_REG_LOSS_TYPE``.

The registered object is called with the config and returns a callable

    loss(pred, target) -> Tensor

that takes predicted and target deltas, float [R, 4], and returns the loss of each coordinate, float [R, 4]. The model
sums, divides and applies ``BBOX_REG_LOSS_WEIGHT``.
"""


def registered_box_losses() -> list[str]:
    """The names in BOX_LOSS_REGISTRY."""
    return [name for name, _ in BOX_LOSS_REGISTRY]


def build_box_loss(cfg, name: str) -> BoxLoss | None:
    """The loss registered as ``name``; None where there is none, which leaves the name to Detectron2."""
    return BOX_LOSS_REGISTRY.get(name)(cfg) if name in BOX_LOSS_REGISTRY else None
