"""Two of Detectron2's detectors, with their backbone wrapped in the balanced feature pyramid."""

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.structures import Boxes, Instances

from libra_d2.checks import UserError
from libra_d2.data.class_names import publish_class_names
from libra_d2.losses.registry import BoxLoss, build_box_loss
from libra_d2.modeling import balance_scalars
from libra_d2.modeling.backbone.bfp import wrap_in_bfp
from libra_d2.modeling.compatibility import check_compatibility
from libra_d2.modeling.matching import match_to_instances


@META_ARCH_REGISTRY.register()
class LibraRCNN(GeneralizedRCNN):
    """:class:`GeneralizedRCNN` on the backbone of ``MODEL.BACKBONE.NAME`` inside a balanced feature pyramid."""

    @classmethod
    def from_config(cls, cfg):
        check_compatibility(cfg)
        publish_class_names(cfg)
        ret = super().from_config(cfg)
        return {**ret, "backbone": wrap_in_bfp(cfg, ret["backbone"])}


class LastLevelP6P7WithoutReLU(LastLevelP6P7):
    """P7 straight from P6, as in MMDetection's RetinaNet, where Detectron2 has a ReLU between them."""

    def forward(self, c5):
        p6 = self.p6(c5)
        return [p6, self.p7(p6)]


@META_ARCH_REGISTRY.register()
class LibraRetinaNet(RetinaNet):
    """:class:`RetinaNet` inside a balanced feature pyramid, by key with a loss of ``BOX_LOSS_REGISTRY``.

    The anchors of the batch are matched in one call that does not wait for the GPU. Focal loss takes the place of
    sampling, as in the paper.
    """

    takes_box_losses = True

    @configurable
    def __init__(self, *, box_loss: BoxLoss | None = None, clip_before_nms: bool = False, **kwargs):
        """
        Args:
            box_loss: see ``BOX_LOSS_REGISTRY``; None for Detectron2's own ``box_reg_loss_type``.
            clip_before_nms: clip the boxes to the unpadded image and drop empty ones before NMS, as MMDetection does;
                Detectron2 clips afterwards.
            kwargs: as in the base class.
        """
        super().__init__(**kwargs)
        self.box_loss = box_loss
        self.clip_before_nms = clip_before_nms

    @classmethod
    def from_config(cls, cfg):
        check_compatibility(cfg)
        publish_class_names(cfg)
        ret = super().from_config(cfg)
        backbone = ret["backbone"]
        if not cfg.MODEL.LIBRA.RETINANET.RELU_BEFORE_P7:
            _remove_relu_before_p7(backbone)
        ret["box_loss"] = build_box_loss(cfg, ret["box_reg_loss_type"])
        if ret["box_loss"] is not None:
            ret["box_reg_loss_type"] = "smooth_l1"  # one that the base class knows; losses() replaces its value
        ret["clip_before_nms"] = cfg.MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS
        return {**ret, "backbone": wrap_in_bfp(cfg, backbone)}

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Same return value as :meth:`detectron2.modeling.RetinaNet.label_anchors`."""
        matches = match_to_instances(Boxes.cat(anchors), gt_instances, self.anchor_matcher)
        return list(matches.classes(self.num_classes)), list(matches.gt_boxes())

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        losses = super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        if self.box_loss is None:
            return losses
        labels = torch.stack(gt_labels)
        image, anchor = ((labels >= 0) & (labels != self.num_classes)).nonzero(as_tuple=True)
        target = self.box2box_transform.get_deltas(
            Boxes.cat(anchors).tensor[anchor], torch.stack(gt_boxes)[image, anchor]
        )
        pred = cat(pred_anchor_deltas, dim=1)[image, anchor]
        if log := balance_scalars.due():
            balance_scalars.log_box_loss(log, self.box_loss, pred, target)
        return {**losses, "loss_box_reg": self.box_loss(pred, target).sum() / self.loss_normalizer}

    def _decode_multi_level_predictions(
        self, anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
    ):
        pred = super()._decode_multi_level_predictions(
            anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
        )
        if self.clip_before_nms:
            pred.pred_boxes.clip(image_size)
            pred = pred[pred.pred_boxes.nonempty()]
        return pred


def _remove_relu_before_p7(backbone) -> None:
    block = getattr(backbone, "top_block", None)
    if not isinstance(block, LastLevelP6P7):
        raise UserError(
            "MODEL.LIBRA.RETINANET.RELU_BEFORE_P7: expected a backbone with LastLevelP6P7 as its top_block, such as "
            f"build_retinanet_resnet_fpn_backbone, to take the ReLU from, got {type(block).__name__}"
        )
    backbone.top_block = LastLevelP6P7WithoutReLU(block.p6.in_channels, block.p6.out_channels, block.in_feature)
