"""The box predictor of a RoI head with the box losses of libra_d2."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import nonzero_tuple
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from fvcore.nn import smooth_l1_loss

from libra_d2.checks import UserError
from libra_d2.losses.registry import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss


def losses_of_each_box() -> list[str]:
    """The box losses that give a value for each box; Detectron2's IoU losses return only a sum."""
    return [*BOX_LOSS_REGISTRY, "smooth_l1"]


class LibraFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` whose ``BBOX_REG_LOSS_TYPE`` may also name a loss of ``BOX_LOSS_REGISTRY``.

    The loss is summed over coordinates and foreground boxes and divided by the number of sampled boxes, as Detectron2
    does with its own box losses.
    """

    @configurable
    def __init__(self, input_shape, *, box_loss: BoxLoss | None = None, **kwargs):
        """
        Args:
            input_shape: as in the base class.
            box_loss: see ``BOX_LOSS_REGISTRY``; None for Detectron2's own ``box_reg_loss_type``.
            kwargs: as in the base class.
        """
        super().__init__(input_shape, **kwargs)
        self.box_loss = box_loss

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        return {**ret, "box_loss": build_box_loss(cfg, cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE)}

    def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        if self.box_loss is None:
            return super().box_reg_loss(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        loss = self.box_loss(*self._foreground_deltas(proposal_boxes, gt_boxes, pred_deltas, gt_classes)).sum()
        return loss / max(gt_classes.numel(), 1.0)

    def regression_errors(self, predictions, proposal_boxes, gt_boxes, gt_classes) -> torch.Tensor:
        """|predicted - target| deltas of the P foreground boxes, in the units of the loss: float32 [P, 4].

        Arguments are those of :meth:`loss_of_each_box`.
        """
        pred, target = self._foreground_deltas(proposal_boxes, gt_boxes, predictions[1], gt_classes)
        return (pred - target).abs().float()

    def loss_of_each_box(self, predictions, proposal_boxes, gt_boxes, gt_classes) -> torch.Tensor:
        """What every box adds to the loss, before division: float32 [R].

        Args:
            predictions: what ``forward`` returns for the R boxes.
            proposal_boxes, gt_boxes: float32 [R, 4], XYXY pixels; rows of ``gt_boxes`` for background are not read.
            gt_classes: int64 [R], ``num_classes`` for background, negative for ignored boxes.

        Raises:
            UserError: the box loss is none of :func:`losses_of_each_box`.
        """
        if self.box_loss is None and self.box_reg_loss_type != "smooth_l1":
            raise UserError(
                f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: expected one of {losses_of_each_box()} with a sampler "
                f"that reads losses, got {self.box_reg_loss_type!r}"
            )
        scores, deltas = (p.float() for p in predictions)
        foreground = (gt_classes >= 0) & (gt_classes < self.num_classes)
        some_class = gt_classes.clamp(0, self.num_classes)
        if self.use_sigmoid_ce:
            target = F.one_hot(some_class, self.num_classes + 1)[:, :-1].to(scores.dtype)
            class_loss = F.binary_cross_entropy_with_logits(scores[:, :-1], target, reduction="none").sum(1)
        else:
            class_loss = F.cross_entropy(scores, some_class, reduction="none")
        pred = self._deltas_of_class(deltas, gt_classes.clamp(0, self.num_classes - 1))
        some_target = torch.where(foreground[:, None], gt_boxes, proposal_boxes)
        target = self.box2box_transform.get_deltas(proposal_boxes, some_target)
        if self.box_loss is not None:
            box_loss = self.box_loss(pred, target)
        else:
            box_loss = smooth_l1_loss(pred, target, beta=self.smooth_l1_beta, reduction="none")
        return class_loss + torch.where(foreground, box_loss.sum(1), 0.0)

    def _foreground_deltas(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        foreground = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        pred = self._deltas_of_class(pred_deltas[foreground], gt_classes[foreground])
        return pred, self.box2box_transform.get_deltas(proposal_boxes[foreground], gt_boxes[foreground])

    def _deltas_of_class(self, deltas, classes):
        """The deltas [R, 4] of each row's class out of [R, 4] (class-agnostic) or [R, 4 * num_classes]."""
        if deltas.shape[1] == 4:
            return deltas
        rows = torch.arange(len(deltas), device=deltas.device)
        return deltas.view(-1, self.num_classes, 4)[rows, classes]
