"""Box losses by name: the values of ``BBOX_REG_LOSS_TYPE`` that the RoI heads and RetinaNet of libra_d2 add."""

from collections.abc import Callable

from torch import Tensor

BoxLoss = Callable[[Tensor, Tensor], Tensor]


class BoxLossRegistry(dict[str, Callable[..., BoxLoss]]):
    """Losses of box deltas by name, for ``BBOX_REG_LOSS_TYPE`` of ``MODEL.ROI_BOX_HEAD`` or ``MODEL.RETINANET``.

    The registered object is called with the config and returns a callable

        loss(pred, target) -> Tensor

    with predicted and wanted deltas, float [R, 4], that returns the loss of each coordinate, float [R, 4]. Summing and
    dividing is the model's business, as is ``BBOX_REG_LOSS_WEIGHT``.

    It is used like Detectron2's registries, but needs torch alone, as all of this package.
    """

    def register(self, loss: Callable[..., BoxLoss] | None = None):
        """Registers a function or class under its name; ``@BOX_LOSS_REGISTRY.register()`` is the decorator."""
        if loss is None:
            return self.register
        if loss.__name__ in self:
            raise KeyError(f"BOX_LOSS_REGISTRY has a loss {loss.__name__!r} already: choose another name")
        self[loss.__name__] = loss
        return loss


BOX_LOSS_REGISTRY = BoxLossRegistry()


def build_box_loss(cfg, name: str) -> BoxLoss | None:
    """The loss registered as ``name``; None where there is none, which leaves the name to Detectron2."""
    return BOX_LOSS_REGISTRY[name](cfg) if name in BOX_LOSS_REGISTRY else None
