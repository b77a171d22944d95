"""IoU matrices of a ragged batch."""

import torch
from torch import Tensor

from . import _checks, _library

_OP = "batched_iou"


@torch.no_grad()
def batched_iou(boxes: Tensor, gt_boxes: Tensor, box_offsets: Tensor, gt_offsets: Tensor) -> list[Tensor]:
    """Intersection over union of every box with every ground truth of its image.

    For label assignment use :func:`match_boxes`, which does not store the matrices. Reading the offsets synchronises
    with the host unless they are on the CPU. The shapes depend on their values: ``torch.compile(fullgraph=True)`` needs
    torch 2.9 and ``torch._dynamo.config.capture_scalar_outputs``.

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
    _checks.tensors(_OP, torch.float32, boxes=boxes, gt_boxes=gt_boxes)
    _checks.tensors(_OP, torch.int64, box_offsets=box_offsets, gt_offsets=gt_offsets)
    offsets = _checks.CHECKS[_OP](boxes, gt_boxes, box_offsets, gt_offsets, 0)
    columns, rows = (_sizes(*each) for each in offsets)
    sizes = [r * c for r, c in zip(rows, columns, strict=True)]
    packed = _library.call(_OP, boxes, gt_boxes, box_offsets, gt_offsets, sum(sizes))
    matrices = packed.split(sizes) if sizes else ()
    return [matrix.view(r, c) for matrix, r, c in zip(matrices, rows, columns, strict=True)]


def _sizes(name: str, offsets: Tensor, total: int) -> list[int]:
    """Rows of each image."""
    bounds = offsets.tolist()
    if not torch.compiler.is_compiling():
        _checks.offset_values(_OP, name, bounds, total)
    sizes = [bounds[n + 1] - bounds[n] for n in range(len(bounds) - 1)]
    for size in sizes:
        torch._check(size >= 0)
    return sizes
