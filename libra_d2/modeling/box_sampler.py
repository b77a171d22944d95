"""Which boxes a RoI head trains on: a registry, so that one's own rule is one class."""

from collections.abc import Callable

import torch
from detectron2.utils.registry import Registry

from libra_d2 import ops
from libra_d2.modeling.box_predictor import LOSSES_OF_EACH_BOX
from libra_d2.modeling.config_checks import choice, number
from libra_d2.modeling.ragged import image_of_row

BOX_SAMPLER_REGISTRY = Registry("BOX_SAMPLER")
BOX_SAMPLER_REGISTRY.__doc__ = """
Samplers of boxes for RoI heads, chosen by ``MODEL.LIBRA.SAMPLER.NAME``.

The registered object is called with the config and returns a callable

    sampler(labels, ious, matched_idx, offsets, losses) -> indices, num_positive, num_negative

with ``labels`` int8 [R] (1 positive, 0 negative, -1 ignored), ``ious`` float32 [R], ``matched_idx`` int64 [R] and
``offsets`` int64 [N + 1] on the CPU as in :func:`libra_d2.ops.bucketed_sample`, whose result it returns: ``indices``
int64 [N, S], local to each image, positives then negatives then -1, and the counts, int64 [N] each. ``losses()`` gives
the current loss of every box, float32 [R], at the cost of a forward pass of the first-stage box head.
"""

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
POSITIVE = ("instance_balanced", "random")
NEGATIVE = ("iou_balanced", "random")


def build_box_sampler(cfg) -> Callable[..., Sample]:
    """The sampler named by ``MODEL.LIBRA.SAMPLER.NAME``."""
    name = choice(cfg, "MODEL.LIBRA.SAMPLER.NAME", (name for name, _ in BOX_SAMPLER_REGISTRY))
    return BOX_SAMPLER_REGISTRY.get(name)(cfg)


def highest_negative_iou(thresholds: list[float], labels: list[int], key: str) -> float:
    """The top of a matcher's highest interval that is labelled 0, where the paper's IoU bins end.

    Args:
        thresholds, labels: as :class:`detectron2.modeling.matcher.Matcher` takes them.
        key: the config node they come from, for the message.
    """
    tops = [top for top, label in zip(thresholds, labels, strict=False) if label == 0]
    if not tops or labels[-1] == 0:
        raise ValueError(
            f"{key}.IOU_LABELS: expected a 0, and not at the end: the bins of negatives end above it, got {labels}"
        )
    return max(tops)


@BOX_SAMPLER_REGISTRY.register()
class BalancedSampler:
    """IoU-balanced negatives and instance-balanced positives (Libra R-CNN, section 3.1), each switched by its key."""

    def __init__(self, cfg):
        heads, key = cfg.MODEL.ROI_HEADS, "MODEL.LIBRA.SAMPLER"
        bin_upper = choice(cfg, f"{key}.BIN_UPPER", ("threshold", "max_all", "max_neg"))
        floor_thr = number(cfg, f"{key}.FLOOR_THR", "-1 or a number in [0, 1)", lambda x: x == -1 or 0 <= x < 1)
        negative = choice(cfg, f"{key}.NEGATIVE", NEGATIVE)
        if bin_upper == "threshold" and negative == "iou_balanced":
            bin_upper = highest_negative_iou(heads.IOU_THRESHOLDS, heads.IOU_LABELS, "MODEL.ROI_HEADS")
            number(cfg, f"{key}.FLOOR_THR", f"less than the highest negative IoU {bin_upper}", lambda x: x < bin_upper)
        elif bin_upper == "threshold":
            bin_upper = "max_neg"  # random sampling has no bins
        self.options = {
            "num_samples": heads.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": heads.POSITIVE_FRACTION,
            "positive": choice(cfg, f"{key}.POSITIVE", POSITIVE),
            "negative": negative,
            "num_bins": number(cfg, f"{key}.NUM_BINS", "at least 1", lambda x: x >= 1),
            "bin_upper": bin_upper,
            "floor_thr": floor_thr,
            "floor_fraction": number(cfg, f"{key}.FLOOR_FRACTION", "a number in [0, 1]", lambda x: 0 <= x <= 1),
        }

    def __call__(self, labels, ious, matched_idx, offsets, losses) -> Sample:
        return ops.bucketed_sample(labels, ious, matched_idx, offsets, **self.options)


@BOX_SAMPLER_REGISTRY.register()
class OHEMSampler:
    """Online hard example mining (Shrivastava et al., CVPR 2016): the boxes with the highest current loss.

    The paper's rival in table 4's setting. Positives and negatives keep Detectron2's quotas; equal losses are taken in
    index order.
    """

    def __init__(self, cfg):
        choice(cfg, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", LOSSES_OF_EACH_BOX)
        self.num_samples = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        self.num_positive = int(self.num_samples * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)

    def __call__(self, labels, ious, matched_idx, offsets, losses) -> Sample:
        device, num_images = labels.device, len(offsets) - 1
        image = image_of_row(offsets, labels)
        loss = losses()
        row = torch.arange(len(labels), device=device)
        local = row - offsets.to(device, non_blocking=True)[image]

        def hardest(mask, limit):
            """Whether each row is among the ``limit[image]`` rows of ``mask`` with the highest loss in its image."""
            order = torch.argsort(torch.where(mask, loss, -torch.inf), descending=True, stable=True)
            order = order[torch.argsort(image[order], stable=True)]
            rank = torch.empty_like(row).scatter_(0, order, local)
            return mask & (rank < limit[image])

        def count(mask):
            return torch.zeros(num_images, dtype=torch.int64, device=device).index_add_(0, image, mask.long())

        positive = hardest(labels > 0, torch.full((num_images,), self.num_positive, device=device))
        num_positive = count(positive)
        negative = hardest(labels == 0, self.num_samples - num_positive)
        num_negative = count(negative)

        # Ascending within positives, then within negatives; what is not drawn goes to a slot that is cut off.
        slot_of_positive = torch.cumsum(positive, 0) - positive.long()
        slot_of_negative = torch.cumsum(negative, 0) - negative.long()
        first_positive = torch.cumsum(num_positive, 0) - num_positive
        first_negative = torch.cumsum(num_negative, 0) - num_negative - num_positive
        slot = torch.full_like(row, self.num_samples)
        slot = torch.where(positive, slot_of_positive - first_positive[image], slot)
        slot = torch.where(negative, slot_of_negative - first_negative[image], slot)
        indices = torch.full((num_images, self.num_samples + 1), -1, dtype=torch.int64, device=device)
        indices[image, slot] = local
        return indices[:, :-1].contiguous(), num_positive, num_negative
