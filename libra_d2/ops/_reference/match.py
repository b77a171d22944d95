import torch
from torch import Tensor

from .._checks import checked
from ..ragged import image_of_row
from .iou import area, pairwise_iou

# Pairs of a box and a ground truth compared at once: on a CPU as many as fit its second-level cache.
_PAIRS_ON_CPU = 1 << 16
_PAIRS_ELSEWHERE = 1 << 22


@checked
def match_boxes(
    boxes: Tensor,
    gt_boxes: Tensor,
    box_offsets: Tensor | None,
    gt_offsets: Tensor,
    thresholds: list[float],
    labels: list[int],
    allow_low_quality: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    images = gt_offsets.shape[0] - 1
    shape = (images, boxes.shape[0]) if box_offsets is None else (boxes.shape[0],)
    index = boxes.new_zeros(shape, dtype=torch.int64)
    iou = boxes.new_zeros(shape)
    low_quality = boxes.new_zeros(shape, dtype=torch.bool)
    on_host = all(offsets is None or offsets.device.type == "cpu" for offsets in (box_offsets, gt_offsets))
    match_all = _match_by_image if on_host else _match_masked
    match_all(boxes, gt_boxes, box_offsets, gt_offsets, index, iou, low_quality if allow_low_quality else None)

    label = torch.full_like(iou, labels[0], dtype=torch.int8)
    for threshold, above in zip(thresholds, labels[1:], strict=True):
        label.masked_fill_(iou >= threshold, above)
    return index, iou, label.masked_fill_(low_quality, 1)


def _match_by_image(boxes, gt_boxes, box_offsets, gt_offsets, index, iou, low_quality) -> None:
    """An image at a time, its bounds read from offsets on the CPU."""
    gt_bounds = gt_offsets.tolist()
    box_bounds = None if box_offsets is None else box_offsets.tolist()
    for n in range(len(gt_bounds) - 1):
        own = n if box_offsets is None else slice(box_bounds[n], box_bounds[n + 1])
        _match(
            boxes if box_offsets is None else boxes[own],
            gt_boxes[gt_bounds[n] : gt_bounds[n + 1]],
            index[own],
            iou[own],
            None if low_quality is None else low_quality[own],
        )


def _match_masked(boxes, gt_boxes, box_offsets, gt_offsets, index, iou, low_quality) -> None:
    """Every box meets the ground truths of all images, for offsets that only a synchronisation could read.

    That is N times the work: offsets on the CPU are the better choice.
    """
    box_offsets = box_offsets if box_offsets is None else box_offsets.to(boxes.device, non_blocking=True)
    gt_offsets = gt_offsets.to(boxes.device, non_blocking=True)
    gt_image = image_of_row(gt_offsets, gt_boxes)
    if box_offsets is not None:
        box_image = image_of_row(box_offsets, boxes)
        _match(boxes, gt_boxes, index, iou, low_quality, gt_image=gt_image, box_image=box_image)
        first_gt = gt_offsets[:-1].index_select(0, box_image)
    else:
        for n in range(gt_offsets.shape[0] - 1):
            own_low_quality = None if low_quality is None else low_quality[n]
            box_image = torch.full_like(index[n], n)
            _match(boxes, gt_boxes, index[n], iou[n], own_low_quality, gt_image=gt_image, box_image=box_image)
        first_gt = gt_offsets[:-1, None]
    index.copy_(torch.where(iou > 0, index - first_gt, 0))


def _match(boxes, gt_boxes, index, iou, low_quality, *, gt_image=None, box_image=None) -> None:
    """Matches boxes to ground truths, a chunk of boxes at a time, into rows of the outputs."""
    if not boxes.shape[0] or not gt_boxes.shape[0]:
        return
    gt_area = area(gt_boxes)
    pairs = _PAIRS_ON_CPU if boxes.device.type == "cpu" else _PAIRS_ELSEWHERE
    step = max(1, pairs // gt_boxes.shape[0])
    chunks = [slice(start, start + step) for start in range(0, boxes.shape[0], step)]

    def chunk_iou(rows: slice) -> Tensor:
        matrix = pairwise_iou(gt_boxes, gt_area, boxes[rows], area(boxes[rows]))
        return matrix if gt_image is None else matrix.mul_(gt_image[:, None] == box_image[rows])

    gt_best = gt_area.new_zeros(gt_area.shape)
    for rows in chunks:
        matrix = chunk_iou(rows)
        torch.max(matrix, dim=0, out=(iou[rows], index[rows]))
        torch.maximum(gt_best, matrix.amax(dim=1), out=gt_best)
    if low_quality is not None:
        # A ground truth that no box overlaps has a best IoU of 0, which is not worth a match.
        gt_best = gt_best.masked_fill_(gt_best == 0, 2.0)[:, None]
        for rows in chunks:
            torch.any(chunk_iou(rows) == gt_best, dim=0, out=low_quality[rows])
