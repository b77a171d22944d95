"""IoU matrices of a ragged batch."""

import torch
from torch import Tensor

from . import _library
from ._checks import check_boxes, check_offset_values, check_offsets

_OP = "batched_iou"


@torch.no_grad()
def batched_iou(boxes: Tensor, gt_boxes: Tensor, box_offsets: Tensor, gt_offsets: Tensor) -> list[Tensor]:
    """Intersection over union of every box with every ground truth of its image.

    For label assignment use :func:`match_boxes`, which does not store the matrices. Reading the offsets synchronises
    with the host unless they are on the CPU.

    Args:
        boxes: float32 [R, 4] XYXY in absolute pixels.
        gt_boxes: float32 [G, 4] XYXY in absolute pixels.
        box_offsets: int64 [N + 1], the rows of ``boxes`` that each image owns.
        gt_offsets: int64 [N + 1], the rows of ``gt_boxes`` that each image owns.

    Returns:
        N float32 matrices of shape [R_n, G_n], views of one buffer. Pairs with a non-finite or empty box are 0.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape, a device or the offsets are wrong.
    """
    check_boxes(_OP, "boxes", boxes)
    check_boxes(_OP, "gt_boxes", gt_boxes, device=boxes.device)
    check_offsets(_OP, "gt_offsets", gt_offsets, device=boxes.device)
    check_offsets(_OP, "box_offsets", box_offsets, device=boxes.device, images=gt_offsets.shape[0] - 1)
    _library.before_call(_OP)
    box_bounds, gt_bounds = box_offsets.tolist(), gt_offsets.tolist()
    check_offset_values(_OP, "box_offsets", box_bounds, boxes.shape[0])
    check_offset_values(_OP, "gt_offsets", gt_bounds, gt_boxes.shape[0])
    shapes = [(box_bounds[n + 1] - box_bounds[n], gt_bounds[n + 1] - gt_bounds[n]) for n in range(len(box_bounds) - 1)]
    sizes = [rows * columns for rows, columns in shapes]
    packed = _library.ops.batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, sum(sizes))
    return [matrix.view(shape) for matrix, shape in zip(packed.split(sizes), shapes, strict=True)]
