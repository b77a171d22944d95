"""The box predictor of a RoI head with the losses of libra_d2."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import nonzero_tuple
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from fvcore.nn import smooth_l1_loss

from libra_d2.checks import UserError
from libra_d2.losses.class_losses import build_class_loss
from libra_d2.losses.prime_samples import prime_sample_options, prime_sample_weights
from libra_d2.losses.registry import BOX_LOSS_REGISTRY, BoxLoss, ClassLoss, build_box_loss
from libra_d2.modeling import balance_scalars


def losses_of_each_box() -> list[str]:
    """The box losses that give a value for each box; Detectron2's IoU losses return only a sum."""
    return [*BOX_LOSS_REGISTRY, "smooth_l1"]


class LibraFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` that also knows the losses of ``BOX_LOSS_REGISTRY`` and ``CLASS_LOSS_REGISTRY``.

    The box loss is summed over coordinates and foreground boxes; both losses are divided by the number of sampled
    boxes, as Detectron2 does with its own.
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        box_loss: BoxLoss | None = None,
        class_loss: ClassLoss | None = None,
        prime_samples: dict[str, float] | None = None,
        **kwargs,
    ):
        """
        Args:
            input_shape: as in the base class.
            box_loss: see ``BOX_LOSS_REGISTRY``; None for Detectron2's own ``box_reg_loss_type``.
            class_loss: see ``CLASS_LOSS_REGISTRY``; None for Detectron2's own, softmax or sigmoid cross entropy.
            prime_samples: ``gamma`` and ``beta`` of :func:`libra_d2.losses.prime_sample_weights`, by which the losses
                of foreground boxes are weighted; None for equal weights.
            kwargs: as in the base class.
        """
        super().__init__(input_shape, **kwargs)
        self.box_loss = box_loss
        self.class_loss = class_loss
        self.prime_samples = prime_samples

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "box_loss": build_box_loss(cfg, cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE),
            "class_loss": build_class_loss(cfg),
            "prime_samples": prime_sample_options(cfg),
        }

    def losses(self, predictions, proposals):
        losses = super().losses(predictions, proposals)
        if (self.class_loss is None and self.prime_samples is None) or not len(predictions[0]):
            return losses
        scores, deltas = predictions
        classes = torch.cat([p.gt_classes for p in proposals])
        each = self._class_loss_of_each_box(scores, classes)
        if self.prime_samples is not None:
            each = each * self._weights(proposals, deltas, classes, each)
        return {**losses, "loss_cls": each.mean() * self.loss_weight.get("loss_cls", 1.0)}

    def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        if self.box_loss is None:
            return super().box_reg_loss(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        deltas = self._foreground_deltas(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        if log := balance_scalars.due():
            balance_scalars.log_box_loss(log, self.box_loss, *deltas)
        return self.box_loss(*deltas).sum() / max(gt_classes.numel(), 1.0)

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
        class_loss = self._class_loss_of_each_box(scores, some_class)
        pred = self._deltas_of_class(deltas, gt_classes.clamp(0, self.num_classes - 1))
        some_target = torch.where(foreground[:, None], gt_boxes, proposal_boxes)
        target = self.box2box_transform.get_deltas(proposal_boxes, some_target)
        if self.box_loss is not None:
            box_loss = self.box_loss(pred, target)
        else:
            box_loss = smooth_l1_loss(pred, target, beta=self.smooth_l1_beta, reduction="none")
        return class_loss + torch.where(foreground, box_loss.sum(1), 0.0)

    def _class_loss_of_each_box(self, scores, classes) -> torch.Tensor:
        if self.class_loss is not None:
            return self.class_loss(scores, classes)
        if not self.use_sigmoid_ce:
            return F.cross_entropy(scores, classes, reduction="none")
        target = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(scores.dtype)
        return F.binary_cross_entropy_with_logits(scores[:, :-1], target, reduction="none").sum(1)

    @torch.no_grad()
    def _weights(self, proposals: list[Instances], deltas, classes, class_losses) -> torch.Tensor:
        """What the R boxes weigh as prime samples: float [R], 1 for background."""
        foreground = nonzero_tuple(classes < self.num_classes)[0]
        weights = torch.ones_like(class_losses)
        if not len(foreground):
            return weights
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])[foreground]
        # Images without objects have proposals without gt_boxes, and no foreground.
        gt_boxes = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        gt_boxes = gt_boxes[foreground]
        image = torch.cat([torch.full_like(p.gt_classes, n) for n, p in enumerate(proposals)])[foreground]
        objects = torch.unique(torch.cat([image[:, None].to(gt_boxes), gt_boxes], 1), dim=0, return_inverse=True)[1]
        of_class = self._deltas_of_class(deltas[foreground].float(), classes[foreground])
        predicted = self.box2box_transform.apply_deltas(of_class, boxes)
        ious = matched_pairwise_iou(Boxes(predicted), Boxes(gt_boxes))
        weights[foreground] = prime_sample_weights(
            ious, objects, classes[foreground], class_losses[foreground], **self.prime_samples
        )
        return weights

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
