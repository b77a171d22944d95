"""Region proposal network that matches and samples the anchors of a whole batch in one call each."""

import math

import torch
from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances

from libra_d2 import ops
from libra_d2.checks import choice, number
from libra_d2.modeling.compatibility import check_compatibility
from libra_d2.modeling.matching import match_to_instances
from libra_d2.modeling.samplers.balanced import NEGATIVE, POSITIVE, highest_negative_iou

NORMALIZERS = ("sampled", "fixed")


@PROPOSAL_GENERATOR_REGISTRY.register()
class LibraRPN(RPN):
    """Detectron2's :class:`RPN` with a limit on negatives per positive and, by key, balanced sampling.

    The published recipe samples at random with ``NEG_POS_UB`` 5; "Libra RPN" (the paper's table 3) samples as the RoI
    heads do. Neither matching nor sampling waits for the GPU.
    """

    @configurable
    def __init__(self, *, sampling: dict, normalizer: str, **kwargs):
        """
        Args:
            sampling: keyword arguments of :func:`libra_d2.ops.bucketed_sample`.
            normalizer: "sampled": the losses are sums over the sampled anchors of this rank, divided by their number;
                "fixed": divided by ``batch_size_per_image`` times the number of images, as Detectron2 does.
            kwargs: as in the base class.
        """
        super().__init__(**kwargs)
        self.sampling = sampling
        self.normalizer = normalizer

    @classmethod
    def from_config(cls, cfg, input_shape):
        check_compatibility(cfg)
        key, rpn = "MODEL.LIBRA.RPN", cfg.MODEL.RPN
        sampling = {
            "positive": choice(cfg, f"{key}.POSITIVE", POSITIVE),
            "negative": choice(cfg, f"{key}.NEGATIVE", NEGATIVE),
            "neg_pos_ub": number(cfg, f"{key}.NEG_POS_UB", "a finite number", math.isfinite),
        }
        if sampling["negative"] == "iou_balanced":
            sampling["bin_upper"] = highest_negative_iou(rpn.IOU_THRESHOLDS, rpn.IOU_LABELS, "MODEL.RPN")
        return {
            **super().from_config(cfg, input_shape),
            "sampling": sampling,
            "normalizer": choice(cfg, f"{key}.NORMALIZER", NORMALIZERS),
        }

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Same return value as :meth:`detectron2.modeling.proposal_generator.RPN.label_and_sample_anchors`."""
        anchors = Boxes.cat(anchors)
        matches = match_to_instances(anchors, gt_instances, self.anchor_matcher)
        labels = matches.label
        if self.anchor_boundary_thresh >= 0:
            inside = [anchors.inside_box(t.image_size, self.anchor_boundary_thresh) for t in gt_instances]
            labels = torch.where(torch.stack(inside), labels, -1)

        num_images, num_anchors = labels.shape
        offsets = torch.arange(num_images + 1) * num_anchors
        indices, num_positive, _ = ops.bucketed_sample(
            labels.flatten(),
            matches.iou.flatten(),
            matches.idx.flatten(),
            offsets,
            self.batch_size_per_image,
            self.positive_fraction,
            **self.sampling,
        )
        rank = torch.arange(indices.shape[1], device=indices.device)
        drawn = (rank < num_positive[:, None]).to(torch.int8)
        # Slots without a draw write behind the last anchor.
        sampled = labels.new_full((num_images, num_anchors + 1), -1)
        sampled.scatter_(1, torch.where(indices < 0, num_anchors, indices), drawn)
        return list(sampled[:, :-1]), list(matches.gt_boxes())

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        losses = super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        if self.normalizer == "fixed":
            return losses
        num_sampled = (torch.stack(gt_labels) >= 0).sum().clamp(min=1)
        fixed = self.batch_size_per_image * len(gt_labels)
        return {name: loss * (fixed / num_sampled) for name, loss in losses.items()}
