"""IoU and label assignment in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks, _library

_OP = "match_boxes"


@torch.no_grad()
def match_boxes(
    boxes: Tensor,
    gt_boxes: Tensor,
    box_offsets: Tensor | None,
    gt_offsets: Tensor,
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Matches every box to the ground truth of its image that it overlaps most, and labels it by that IoU.

    Equal, bit for bit, to Detectron2's ``pairwise_iou`` followed by
    ``Matcher(thresholds, labels, allow_low_quality_matches)``, image by image, but the matrix of IoUs is never stored.
    One case differs on purpose: a ground truth that overlaps no box makes no low-quality match, where ``Matcher`` would
    call every box of the image positive.

    Args:
        boxes: float32 [R, 4] XYXY in absolute pixels, or [A, 4] shared by all images when ``box_offsets`` is None.
        gt_boxes: float32 [G, 4] XYXY in absolute pixels.
        box_offsets: int64 [N + 1], the rows of ``boxes`` that each image owns; None for shared boxes such as anchors.
        gt_offsets: int64 [N + 1], the rows of ``gt_boxes`` that each image owns.
        thresholds: ascending, positive IoUs that separate the labels; compared as float32.
        labels: one of -1 (ignore), 0 (negative), 1 (positive) for each of the ``len(thresholds) + 1`` intervals; the
            interval of a label starts at its threshold, included.
        allow_low_quality: also label positive every box that ties for the highest IoU of a ground truth, as the RPN
            does (Faster R-CNN, section 3.1.2). Its match stays the ground truth that the box itself overlaps most.

    Returns:
        ``matched_idx`` int64, the index inside the image of the first ground truth of highest IoU; ``matched_iou``
        float32; ``matched_label`` int8. Each is [R], or [N, A] for shared boxes. Without ground truths, and for boxes
        with non-finite coordinates, index and IoU are 0 and the label is ``labels[0]``.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape, device, threshold, label or (where they are on the CPU) the offsets are wrong.
    """
    _checks.tensors(_OP, torch.float32, boxes=boxes, gt_boxes=gt_boxes)
    _checks.tensors(_OP, torch.int64, gt_offsets=gt_offsets)
    if box_offsets is not None:
        _checks.tensors(_OP, torch.int64, box_offsets=box_offsets)
    thresholds = _checks.each(_checks.number, _OP, "thresholds", thresholds)
    labels = _checks.each(_checks.integer, _OP, "labels", labels)
    return _library.call(_OP, boxes, gt_boxes, box_offsets, gt_offsets, thresholds, labels, bool(allow_low_quality))
