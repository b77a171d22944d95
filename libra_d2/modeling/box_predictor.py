"""The box predictor of a RoI head with the balanced L1 loss."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import nonzero_tuple
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from fvcore.nn import smooth_l1_loss

from libra_d2.losses import MAX_RATIO, VARIANTS, balanced_l1_loss
from libra_d2.modeling.config_checks import BALANCED_L1, choice, number

LOSSES_OF_EACH_BOX = (BALANCED_L1, "smooth_l1")  # the IoU losses have no value of each box here


def balanced_l1_options(cfg) -> dict:
    """The keyword arguments of :func:`libra_d2.losses.balanced_l1_loss` that ``MODEL.LIBRA.BALANCED_L1`` stands for."""
    key = "MODEL.LIBRA.BALANCED_L1"
    options = {
        name.lower(): number(cfg, f"{key}.{name}", "a finite number above 0", lambda x: 0 < x < float("inf"))
        for name in ("ALPHA", "GAMMA", "BETA")
    }
    most = MAX_RATIO * options["alpha"]
    number(cfg, f"{key}.GAMMA", f"at most {MAX_RATIO:g} times ALPHA, {most:g}", lambda x: x <= most)
    return {**options, "variant": choice(cfg, f"{key}.VARIANT", VARIANTS)}


class LibraFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` that also knows ``BBOX_REG_LOSS_TYPE: balanced_l1`` (Libra R-CNN, section 3.3).

    The loss is summed over coordinates and foreground boxes and divided by the number of sampled boxes, as Detectron2
    does with its own box losses.
    """

    @configurable
    def __init__(self, input_shape, *, balanced_l1: dict, **kwargs):
        """
        Args:
            input_shape: as in the base class.
            balanced_l1: keyword arguments of :func:`libra_d2.losses.balanced_l1_loss`.
            kwargs: as in the base class.
        """
        super().__init__(input_shape, **kwargs)
        self.balanced_l1 = balanced_l1

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret["balanced_l1"] = balanced_l1_options(cfg)
        return ret

    def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        if self.box_reg_loss_type != BALANCED_L1:
            return super().box_reg_loss(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        foreground = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        pred = self._deltas_of_class(pred_deltas[foreground], gt_classes[foreground])
        target = self.box2box_transform.get_deltas(proposal_boxes[foreground], gt_boxes[foreground])
        loss = balanced_l1_loss(pred, target, **self.balanced_l1, reduction="sum")
        return loss / max(gt_classes.numel(), 1.0)

    def loss_of_each_box(self, predictions, proposal_boxes, gt_boxes, gt_classes) -> torch.Tensor:
        """What every box adds to the loss, before division: float32 [R].

        Args:
            predictions: what ``forward`` returns for the R boxes.
            proposal_boxes, gt_boxes: float32 [R, 4], XYXY pixels; rows of ``gt_boxes`` for background are not read.
            gt_classes: int64 [R], ``num_classes`` for background, negative for ignored boxes.

        Raises:
            ValueError: the box loss is none of ``LOSSES_OF_EACH_BOX``.
        """
        if self.box_reg_loss_type not in LOSSES_OF_EACH_BOX:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: expected one of {list(LOSSES_OF_EACH_BOX)} with a sampler "
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
        if self.box_reg_loss_type == BALANCED_L1:
            box_loss = balanced_l1_loss(pred, target, **self.balanced_l1, reduction="none")
        else:
            box_loss = smooth_l1_loss(pred, target, beta=self.smooth_l1_beta, reduction="none")
        return class_loss + torch.where(foreground, box_loss.sum(1), 0.0)

    def _deltas_of_class(self, deltas, classes):
        """The deltas [R, 4] of each row's class out of [R, 4] (class-agnostic) or [R, 4 * num_classes]."""
        if deltas.shape[1] == 4:
            return deltas
        rows = torch.arange(len(deltas), device=deltas.device)
        return deltas.view(-1, self.num_classes, 4)[rows, classes]
