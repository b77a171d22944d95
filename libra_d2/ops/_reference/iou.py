import torch
from torch import Tensor

from .._checks import checked


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(gt_boxes: Tensor, gt_area: Tensor, boxes: Tensor, box_area: Tensor) -> Tensor:
    """[G, R] IoUs; the operations and their order are Detectron2's, so the bits are as well.

    A non-finite coordinate makes the area, so the union, infinite or NaN. Comparing the quotient with 0 turns every
    such pair, every empty one and every overflow to NaN into 0.
    """
    width = torch.minimum(gt_boxes[:, 2:3], boxes[:, 2]) - torch.maximum(gt_boxes[:, 0:1], boxes[:, 0])
    height = torch.minimum(gt_boxes[:, 3:4], boxes[:, 3]) - torch.maximum(gt_boxes[:, 1:2], boxes[:, 1])
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    quotient = intersection / (gt_area[:, None] + box_area).sub_(intersection)
    return torch.where(quotient > 0, quotient, 0.0)


@checked
def batched_iou(boxes: Tensor, gt_boxes: Tensor, box_offsets: Tensor, gt_offsets: Tensor, numel: int) -> Tensor:
    box_bounds, gt_bounds = box_offsets.tolist(), gt_offsets.tolist()
    matrices = [boxes.new_empty(0)]
    for n in range(len(box_bounds) - 1):
        rows, columns = boxes[box_bounds[n] : box_bounds[n + 1]], gt_boxes[gt_bounds[n] : gt_bounds[n + 1]]
        matrices.append(pairwise_iou(columns, area(columns), rows, area(rows)).t().flatten())
    packed = torch.cat(matrices)
    if packed.numel() != numel:
        raise ValueError(f"batched_iou: expected numel {packed.numel()}, the size of all matrices, got {numel}")
    return packed
