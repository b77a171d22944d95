"""Instance-balanced and IoU-balanced sampling of boxes."""

import torch
from torch import Tensor

from . import _checks, _library

_OP = "bucketed_sample"


@torch.no_grad()
def bucketed_sample(
    labels: Tensor,
    ious: Tensor,
    matched_idx: Tensor,
    offsets: Tensor,
    num_samples: int,
    positive_fraction: float,
    *,
    positive: str = "instance_balanced",
    negative: str = "iou_balanced",
    num_bins: int = 3,
    bin_upper: float | str = 0.5,
    floor_thr: float = -1.0,
    floor_fraction: float = 0.0,
    neg_pos_ub: float = -1.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws the boxes to train on, without replacement, for every image of a batch (Libra R-CNN, section 3.1).

    A pure function of its arguments and ``seed``: the same seed draws the same boxes on every device, whatever the
    other images of the batch hold. ``docs/sampling.md`` fixes it draw by draw.

    Args:
        labels: int8 [R]; above 0 is a positive, 0 a negative, below 0 is never drawn.
        ious: float32 [R], the IoU of each box with its best ground truth. NaN counts as 0.
        matched_idx: int64 [R], the index of that ground truth inside the image, of which 32 bits count; read for
            positives only.
        offsets: int64 [N + 1], the rows that each image owns.
        num_samples: boxes to draw an image, S.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` of them are positives.
        positive: "instance_balanced" gives every ground truth the same number of positives, as far as it has them;
            "random" draws uniformly.
        negative: "iou_balanced" draws the same number from each of ``num_bins`` equal IoU intervals and fills what
            lacks uniformly from the rest; "random" draws uniformly.
        num_bins: K, the number of IoU intervals.
        bin_upper: the top of the highest interval: an IoU (the paper: the one below which boxes are negatives),
            "max_neg" for the image's highest IoU among negatives, or "max_all" among all its boxes (MMDetection).
        floor_thr: negatives below it (at it, when it is 0) are set apart and not binned; none when it is negative.
        floor_fraction: the share of the negatives that is reserved for those set apart.
        neg_pos_ub: at most this many negatives for each drawn positive (one, where none was drawn); no bound when
            negative.
        seed: int64 scalar on the device of ``labels``; None draws one from torch's generator of that device.

    Returns:
        ``indices`` int64 [N, S]: indices inside the image, positives ascending, then negatives ascending, then -1;
        ``num_positive`` and ``num_negative``, int64 [N].

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape, device, number, name or (where they are on the CPU) the offsets are wrong.
    """
    _checks.tensors(_OP, torch.int8, labels=labels)
    _checks.tensors(_OP, torch.float32, ious=ious)
    _checks.tensors(_OP, torch.int64, matched_idx=matched_idx, offsets=offsets)
    if seed is None:
        limits = torch.iinfo(torch.int64)
        seed = torch.randint(limits.min, limits.max, (), dtype=torch.int64, device=labels.device)
    _checks.tensors(_OP, torch.int64, seed=seed)
    return _library.call(
        _OP,
        labels,
        ious,
        matched_idx,
        offsets,
        seed,
        _checks.integer(_OP, "num_samples", num_samples),
        _checks.number(_OP, "positive_fraction", positive_fraction),
        str(positive),
        str(negative),
        _checks.integer(_OP, "num_bins", num_bins),
        bin_upper if isinstance(bin_upper, str) else "value",
        0.0 if isinstance(bin_upper, str) else _checks.number(_OP, "bin_upper", bin_upper),
        _checks.number(_OP, "floor_thr", floor_thr),
        _checks.number(_OP, "floor_fraction", floor_fraction),
        _checks.number(_OP, "neg_pos_ub", neg_pos_ub),
    )
