"""Losses by name, for the RoI heads and RetinaNet of libra_d2: of box deltas, and of class scores."""

from collections.abc import Callable

from torch import Tensor

BoxLoss = Callable[[Tensor, Tensor], Tensor]
ClassLoss = Callable[[Tensor, Tensor], Tensor]


class LossRegistry(dict[str, Callable]):
    """Functions or classes by name, which are called with the config and return the loss.

    It is used like Detectron2's registries, but needs torch alone, as all of this package.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def register(self, loss: Callable | None = None):
        """Registers a function or class under its name; ``@REGISTRY.register()`` is the decorator."""
        if loss is None:
            return self.register
        if loss.__name__ in self:
            raise KeyError(f"{self.name} has a loss {loss.__name__!r} already: choose another name")
        self[loss.__name__] = loss
        return loss


#: For ``BBOX_REG_LOSS_TYPE`` of ``MODEL.ROI_BOX_HEAD`` or ``MODEL.RETINANET``: the config gives a callable
#: ``loss(pred, target)`` of predicted and wanted deltas, float [R, 4], that returns the loss of each coordinate, float
#: [R, 4]. Summing and dividing is the model's business, as is ``BBOX_REG_LOSS_WEIGHT``.
BOX_LOSS_REGISTRY = LossRegistry("BOX_LOSS_REGISTRY")

#: For ``MODEL.LIBRA.CLASS_LOSS.NAME``, in the RoI heads: the config gives a callable ``loss(scores, classes)`` of
#: logits, float [R, K + 1] with the background last, and classes, int64 [R] from 0 to K, that returns the loss of each
#: box, float [R]. The model takes the mean. A ``torch.nn.Module`` becomes part of it, its buffers part of checkpoints.
CLASS_LOSS_REGISTRY = LossRegistry("CLASS_LOSS_REGISTRY")


def build_box_loss(cfg, name: str) -> BoxLoss | None:
    """The loss registered as ``name``; None where there is none, which leaves the name to Detectron2."""
    return BOX_LOSS_REGISTRY[name](cfg) if name in BOX_LOSS_REGISTRY else None
