"""The samplers of Libra R-CNN (section 3.1)."""

from detectron2.config import configurable

from libra_d2 import ops
from libra_d2.checks import UserError, choice, number
from libra_d2.modeling.box_sampler import BOX_SAMPLER_REGISTRY, Sample

POSITIVE = ("instance_balanced", "random")
NEGATIVE = ("iou_balanced", "random")


def highest_negative_iou(thresholds: list[float], labels: list[int], key: str) -> float:
    """The top of a matcher's highest interval with label 0, where the paper's IoU bins end.

    Args:
        thresholds, labels: as :class:`detectron2.modeling.matcher.Matcher` takes them.
        key: the config node they come from, for the message.
    """
    tops = [top for top, label in zip(thresholds, labels, strict=False) if label == 0]
    if not tops or labels[-1] == 0:
        raise UserError(
            f"{key}.IOU_LABELS: expected a 0, and not at the end: the bins of negatives end above it, got {labels}"
        )
    return max(tops)


@BOX_SAMPLER_REGISTRY.register()
class BalancedSampler:
    """IoU-balanced negatives and instance-balanced positives (Libra R-CNN, section 3.1), each switched by its key."""

    @configurable
    def __init__(self, **options):
        """
        Args:
            options: ``num_samples``, ``positive_fraction`` and keyword arguments of
                :func:`libra_d2.ops.bucketed_sample`.
        """
        self.options = options

    @classmethod
    def from_config(cls, cfg):
        heads, key = cfg.MODEL.ROI_HEADS, "MODEL.LIBRA.SAMPLER"
        bin_upper = choice(cfg, f"{key}.BIN_UPPER", ("threshold", "max_all", "max_neg"))
        floor_thr = number(cfg, f"{key}.FLOOR_THR", "-1 or a number in [0, 1)", lambda x: x == -1 or 0 <= x < 1)
        negative = choice(cfg, f"{key}.NEGATIVE", NEGATIVE)
        if bin_upper == "threshold" and negative == "iou_balanced":
            bin_upper = highest_negative_iou(heads.IOU_THRESHOLDS, heads.IOU_LABELS, "MODEL.ROI_HEADS")
            number(cfg, f"{key}.FLOOR_THR", f"less than the highest negative IoU {bin_upper}", lambda x: x < bin_upper)
        elif bin_upper == "threshold":
            bin_upper = "max_neg"  # random sampling has no bins
        return {
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
