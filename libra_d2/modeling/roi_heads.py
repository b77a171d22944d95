"""RoI heads that match and sample the boxes of a whole batch in one call each (Libra R-CNN, section 3.1)."""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from libra_d2.modeling import balance_scalars
from libra_d2.modeling.box_predictor import LibraFastRCNNOutputLayers
from libra_d2.modeling.box_sampler import build_box_sampler
from libra_d2.modeling.compatibility import check_compatibility
from libra_d2.modeling.matching import Matches, match_to_instances


class BalancedSamplingMixin:
    """Replaces how Detectron2's RoI heads choose and label proposals; put it before a subclass of ``ROIHeads``.

    One call of each op for the batch, one wait for the GPU (the counts). Images without objects or proposals are fine.
    """

    takes_box_losses = True

    @configurable
    def __init__(self, *, box_sampler, **kwargs):
        """
        Args:
            box_sampler: see ``BOX_SAMPLER_REGISTRY`` in :mod:`libra_d2.modeling.box_sampler`.
            kwargs: as in Detectron2's class.
        """
        super().__init__(**kwargs)
        self.box_sampler = box_sampler
        self._features = None

    @classmethod
    def from_config(cls, cfg, input_shape):
        check_compatibility(cfg)
        return {**super().from_config(cfg, input_shape), "box_sampler": build_box_sampler(cfg)}

    def forward(self, images, features, proposals, targets=None):
        self._features = features  # for samplers that ask for losses
        try:
            return super().forward(images, features, proposals, targets)
        finally:
            self._features = None

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Same return value as :meth:`detectron2.modeling.ROIHeads.label_and_sample_proposals`."""
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        matches = match_to_instances([p.proposal_boxes for p in proposals], targets, self.proposal_matcher)

        def losses():
            return self._loss_of_each_proposal(proposals, matches)

        boxes = matches.label, matches.iou, matches.idx, matches.offsets
        indices, num_positive, num_negative = sample = self.box_sampler(*boxes, losses)
        if log := balance_scalars.due():
            balance_scalars.log_sampling(log, *boxes, sample, getattr(self.box_sampler, "options", {}))
        classes = matches.classes(self.num_classes)
        first_row = matches.offsets[:-1].to(indices.device, non_blocking=True)
        rows = (indices + first_row[:, None]).clamp(0, max(len(classes) - 1, 0))
        sampled_classes = _take(classes, rows)
        sampled_targets = _take(matches.idx, rows)
        # The one wait for the GPU. Masks stored as polygons are Python lists, so their indices come along.
        on_host = torch.cat([num_positive[:, None], num_negative[:, None], sampled_targets], dim=1).tolist()

        sampled = []
        for n, (proposals_per_image, targets_per_image) in enumerate(zip(proposals, targets, strict=True)):
            num_foreground, num_background, *host_targets = on_host[n]
            count = num_foreground + num_background
            proposals_per_image = proposals_per_image[indices[n, :count]]
            proposals_per_image.gt_classes = sampled_classes[n, :count]
            if len(targets_per_image) > 0:
                _copy_gt_fields(
                    targets_per_image, proposals_per_image, sampled_targets[n, :count], host_targets[:count]
                )
            sampled.append(proposals_per_image)

        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", np.mean([row[0] for row in on_host]))
        storage.put_scalar("roi_head/num_bg_samples", np.mean([row[1] for row in on_host]))
        return sampled

    def first_stage(self):
        """The box head and box predictor that see the sampled proposals first."""
        return self.box_head, self.box_predictor

    @torch.no_grad()
    def _loss_of_each_proposal(self, proposals: list[Instances], matches: Matches) -> torch.Tensor:
        box_head, box_predictor = self.first_stage()
        features = [self._features[name] for name in self.box_in_features]
        boxes = [p.proposal_boxes for p in proposals]
        predictions = box_predictor(box_head(self.box_pooler(features, boxes)))
        return box_predictor.loss_of_each_box(
            predictions, Boxes.cat(boxes).tensor, matches.gt_boxes(), matches.classes(self.num_classes)
        )


@ROI_HEADS_REGISTRY.register()
class LibraROIHeads(BalancedSamplingMixin, StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` with balanced sampling and, by key, the balanced L1 loss."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = LibraFastRCNNOutputLayers(cfg, ret["box_head"].output_shape)
        return ret


@ROI_HEADS_REGISTRY.register()
class LibraCascadeROIHeads(BalancedSamplingMixin, CascadeROIHeads):
    """Detectron2's :class:`CascadeROIHeads` with balanced sampling in the first stage and, by key, balanced L1."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictors"] = [
            LibraFastRCNNOutputLayers(cfg, head.output_shape, box2box_transform=predictor.box2box_transform)
            for head, predictor in zip(ret["box_heads"], ret["box_predictors"], strict=True)
        ]
        return ret

    def first_stage(self):
        return self.box_head[0], self.box_predictor[0]

    def _create_proposals_from_boxes(self, boxes, image_sizes):
        if not self.training:
            return super()._create_proposals_from_boxes(boxes, image_sizes)
        # Detectron2 waits for the GPU twice an image here, in Boxes.clip and to drop empty boxes; we drop them later.
        proposals = []
        for boxes_per_image, (height, width) in zip(boxes, image_sizes, strict=True):
            x, y = boxes_per_image.detach()[:, 0::2].clamp(0, width), boxes_per_image.detach()[:, 1::2].clamp(0, height)
            clipped = Boxes(torch.stack([x, y], dim=2).flatten(1))
            proposals.append(Instances((height, width), proposal_boxes=clipped))
        return proposals

    @torch.no_grad()
    def _match_and_label_boxes(self, proposals, stage, targets):
        matches = match_to_instances([p.proposal_boxes for p in proposals], targets, self.proposal_matchers[stage])
        is_usable = Boxes.cat([p.proposal_boxes for p in proposals]).nonempty()
        classes, gt_boxes = matches.classes(self.num_classes), matches.gt_boxes()
        # The one wait for the GPU of this stage
        usable, foreground = torch.stack([is_usable, is_usable & (matches.label == 1)]).cpu().numpy()

        labelled, begin = [], 0
        for proposals_per_image in proposals:
            rows = slice(begin, begin + len(proposals_per_image))
            local = torch.from_numpy(np.flatnonzero(usable[rows])).to(classes.device, non_blocking=True)
            proposals_per_image = proposals_per_image[local]
            proposals_per_image.gt_classes = classes[rows][local]
            proposals_per_image.gt_boxes = Boxes(gt_boxes[rows][local])
            labelled.append(proposals_per_image)
            begin = rows.stop

        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", foreground.sum() / len(targets))
        storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", (usable & ~foreground).sum() / len(targets))
        return labelled


def _take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]``; arbitrary where ``values`` has no rows at all."""
    return values[rows] if len(values) else torch.zeros_like(rows)


def _copy_gt_fields(targets: Instances, proposals: Instances, indices: torch.Tensor, host_indices: list[int]) -> None:
    """Gives ``proposals`` the ``gt_*`` fields of the objects they are matched to."""
    for name, value in targets.get_fields().items():
        if name.startswith("gt_") and not proposals.has(name):
            on_device = isinstance(getattr(value, "tensor", value), torch.Tensor)
            proposals.set(name, value[indices] if on_device else value[host_indices])
