"""Sampling as docs/sampling.md fixes it, for all images at once: stable sorts and ranks in place of loops."""

import torch
from torch import Tensor

from .._checks import FLOAT32, checked
from ..ragged import image_of_row
from ..ranking import count_in_image, max_in_image, pack_sample, smallest
from . import philox


@checked
def bucketed_sample(
    labels: Tensor,
    ious: Tensor,
    matched_idx: Tensor,
    offsets: Tensor,
    seed: Tensor,
    num_samples: int,
    positive_fraction: float,
    positive: str,
    negative: str,
    num_bins: int,
    bin_upper: str,
    bin_upper_value: float,
    floor_thr: float,
    floor_fraction: float,
    neg_pos_ub: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if abs(floor_thr) < FLOAT32.tiny:
        floor_thr = 0.0
    images = offsets.shape[0] - 1
    if images == 0:
        counts = labels.new_zeros(0, dtype=torch.int64)
        return labels.new_zeros((0, num_samples), dtype=torch.int64), counts, counts.clone()
    offsets = offsets.to(labels.device, non_blocking=True).clamp(0, labels.shape[0])
    image = image_of_row(offsets, labels)
    index = torch.arange(labels.shape[0], device=labels.device) - offsets.index_select(0, image)
    keys = philox.draw(seed, index, image, philox.BOX)

    is_positive = labels > 0
    if positive == "random":
        order = keys[0]
    else:
        order = _instance_balanced_order(is_positive, image, matched_idx, keys[0], seed)
    most = torch.full_like(offsets[1:], int(num_samples * positive_fraction))
    taken_positive = smallest(image, is_positive, order, most)
    num_positive = count_in_image(image, taken_positive, images)

    is_negative = labels == 0
    wanted = num_samples - num_positive
    if neg_pos_ub >= 0:
        bound = (num_positive.clamp(min=1).double() * neg_pos_ub).clamp(max=num_samples)
        wanted = torch.minimum(wanted, bound.long())
    if negative == "random":
        taken_negative = smallest(image, is_negative, keys[0], wanted)
    else:
        ious = torch.where(ious == ious, ious, 0.0)
        if bin_upper == "value":
            upper = torch.full_like(wanted, bin_upper_value, dtype=torch.float32)
        else:
            upper = max_in_image(
                image, ious if bin_upper == "max_all" else ious.where(is_negative, -float("inf")), images
            )
        taken_negative = _iou_balanced(
            is_negative,
            image,
            ious,
            keys,
            wanted,
            num_bins,
            upper,
            upper_included=bin_upper != "max_all",
            floor_thr=floor_thr,
            floor_fraction=floor_fraction,
        )
    num_negative = count_in_image(image, taken_negative, images)
    return (
        pack_sample(image, index, taken_positive, taken_negative, num_positive, num_samples),
        num_positive,
        num_negative,
    )


def _instance_balanced_order(
    is_positive: Tensor, image: Tensor, matched_idx: Tensor, first_key: Tensor, seed: Tensor
) -> Tensor:
    """A key by which the smallest P positives of an image are the instance-balanced choice.

    Rank the positives of every ground truth by their first key. Giving every ground truth up to L of them means taking
    all with a rank below L; the leftovers have rank L, one a ground truth, and go by the ground truths' keys. So taking
    the first P by (rank, key of the ground truth, ground truth) finds the level L without computing it.
    """
    gt = matched_idx & 0xFFFFFFFF
    segment = torch.where(is_positive, image, -1)
    order = torch.argsort(first_key, stable=True)
    for column in (gt, segment):
        order = order.index_select(0, torch.argsort(column.index_select(0, order), stable=True))
    gt, owner = gt.index_select(0, order), segment.index_select(0, order)

    position = torch.arange(order.shape[0], device=order.device)
    is_first = torch.ones_like(is_positive)
    is_first[1:] = (gt[1:] != gt[:-1]) | (owner[1:] != owner[:-1])
    rank = position - torch.where(is_first, position, 0).cummax(0).values

    gt_key, *_ = philox.draw(seed, gt, owner, philox.GROUND_TRUTH)
    turn = torch.argsort(rank << 32 | gt_key, stable=True)
    return torch.empty_like(order).scatter_(0, order.index_select(0, turn), position)


def _iou_balanced(
    is_negative: Tensor,
    image: Tensor,
    ious: Tensor,
    keys: tuple[Tensor, ...],
    wanted: Tensor,
    num_bins: int,
    upper: Tensor,
    *,
    upper_included: bool,
    floor_thr: float,
    floor_fraction: float,
) -> Tensor:
    """The negatives to take. Where there are too few, the steps add up to all of them by themselves."""
    first_key, refill_key, topup_key, _ = keys
    images = wanted.shape[0]
    if floor_thr < 0:
        is_floor = torch.zeros_like(is_negative)
    else:
        is_floor = is_negative & ((ious < floor_thr) if floor_thr > 0 else (ious == 0))
    is_binned = is_negative & ~is_floor
    share = (wanted.double() * (1 - floor_fraction)).long()
    binned = torch.minimum(count_in_image(image, is_binned, images), share)

    # One draw by the first keys: a bucket for each bin, and one for the floor, whose quota is known beforehand.
    bucket = _bin_of(image, ious, max(floor_thr, 0.0), upper, num_bins, upper_included).where(is_binned, -1)
    bucket = bucket.masked_fill_(is_floor, num_bins)
    quota = (share // num_bins)[:, None].repeat(1, num_bins + 1)
    quota[:, num_bins] = wanted - binned
    taken = smallest(image * (num_bins + 1) + bucket, bucket >= 0, first_key, quota.view(-1))

    missing = binned - count_in_image(image, taken & is_binned, images)
    taken |= smallest(image, is_binned & ~taken, refill_key, missing)
    if floor_fraction > 0:
        missing = wanted - count_in_image(image, taken, images)
        taken |= smallest(image, is_binned & ~taken, topup_key, missing)
    return taken


def _bin_of(image: Tensor, ious: Tensor, lower: float, upper: Tensor, num_bins: int, upper_included: bool) -> Tensor:
    """The IoU interval of each box, -1 for none."""
    # Tensors, since CUDA divides by a number of the host through its reciprocal.
    low = torch.full_like(upper, lower)
    width = (upper - low) / torch.full_like(upper, num_bins)

    def edge(k: int) -> Tensor:
        return (low + width * k).index_select(0, image)

    found = torch.zeros_like(image)
    for k in range(1, num_bins):
        found.masked_fill_(ious >= edge(k), k)
    below_top = ious <= upper.index_select(0, image) if upper_included else ious < edge(num_bins)
    return found.masked_fill_(~((ious >= edge(0)) & below_top), -1)
