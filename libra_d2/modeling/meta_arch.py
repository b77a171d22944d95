"""Detectron2's two detectors, their backbone wrapped in the balanced feature pyramid."""

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.structures import Boxes, Instances

from libra_d2.losses import balanced_l1_loss
from libra_d2.modeling.bfp import wrap_in_bfp
from libra_d2.modeling.box_predictor import balanced_l1_options
from libra_d2.modeling.class_names import publish_class_names
from libra_d2.modeling.config_checks import BALANCED_L1, refuse_unusable_parts
from libra_d2.modeling.matching import match_to_instances


@META_ARCH_REGISTRY.register()
class LibraRCNN(GeneralizedRCNN):
    """:class:`GeneralizedRCNN` on the backbone of ``MODEL.BACKBONE.NAME`` inside a balanced feature pyramid."""

    @classmethod
    def from_config(cls, cfg):
        refuse_unusable_parts(cfg)
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
    """:class:`RetinaNet` inside a balanced feature pyramid, with the balanced L1 loss where the config says so.

    The anchors of the batch are matched in one call that does not wait for the GPU. Focal loss takes the place of
    sampling, as in the paper.
    """

    has_balanced_l1 = True

    @configurable
    def __init__(self, *, balanced_l1: dict | None = None, clip_before_nms: bool = False, **kwargs):
        """
        Args:
            balanced_l1: keyword arguments of :func:`libra_d2.losses.balanced_l1_loss`, or None for
                ``box_reg_loss_type``.
            clip_before_nms: clip the boxes to the unpadded image and drop empty ones before NMS, as MMDetection does;
                Detectron2 clips afterwards.
            kwargs: as in the base class.
        """
        super().__init__(**kwargs)
        self.balanced_l1 = balanced_l1
        self.clip_before_nms = clip_before_nms

    @classmethod
    def from_config(cls, cfg):
        refuse_unusable_parts(cfg)
        publish_class_names(cfg)
        ret = super().from_config(cfg)
        backbone = ret["backbone"]
        if not cfg.MODEL.LIBRA.RETINANET.RELU_BEFORE_P7:
            _remove_relu_before_p7(backbone)
        if ret["box_reg_loss_type"] == BALANCED_L1:
            # The base class gets a loss that it knows; losses() replaces its value.
            ret["box_reg_loss_type"] = "smooth_l1"
            ret["balanced_l1"] = balanced_l1_options(cfg)
        ret["clip_before_nms"] = cfg.MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS
        return {**ret, "backbone": wrap_in_bfp(cfg, backbone)}

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """See :meth:`detectron2.modeling.RetinaNet.label_anchors`, whose result this has."""
        matches = match_to_instances(Boxes.cat(anchors), gt_instances, self.anchor_matcher)
        return list(matches.classes(self.num_classes)), list(matches.gt_boxes())

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        losses = super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        if self.balanced_l1 is None:
            return losses
        labels = torch.stack(gt_labels)
        image, anchor = ((labels >= 0) & (labels != self.num_classes)).nonzero(as_tuple=True)
        target = self.box2box_transform.get_deltas(
            Boxes.cat(anchors).tensor[anchor], torch.stack(gt_boxes)[image, anchor]
        )
        pred = cat(pred_anchor_deltas, dim=1)[image, anchor]
        loss = balanced_l1_loss(pred, target, **self.balanced_l1, reduction="sum")
        return {**losses, "loss_box_reg": loss / self.loss_normalizer}

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
        raise ValueError(
            "MODEL.LIBRA.RETINANET.RELU_BEFORE_P7: expected a backbone with LastLevelP6P7 as its top_block, such as "
            f"build_retinanet_resnet_fpn_backbone, to take the ReLU from, got {type(block).__name__}"
        )
    backbone.top_block = LastLevelP6P7WithoutReLU(block.p6.in_channels, block.p6.out_channels, block.in_feature)
