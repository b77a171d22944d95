"""Matching the boxes of a batch to its annotated objects, with one call of the op."""

from dataclasses import dataclass

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances

from libra_d2 import ops
from libra_d2.ops.ragged import image_of_row, pack


@dataclass
class Matches:
    """What the boxes of a batch are matched to: packed rows [R], or [N, A] for anchors that all images share.

    ``idx`` (int64, local to the image), ``iou`` (float32) and ``label`` (int8) are those of
    :func:`libra_d2.ops.match_boxes`; ``offsets`` (int64 [N + 1], on the CPU) is None for shared anchors.
    """

    idx: torch.Tensor
    iou: torch.Tensor
    label: torch.Tensor
    offsets: torch.Tensor | None
    _gt_boxes: torch.Tensor
    _gt_classes: torch.Tensor
    _gt_row: torch.Tensor

    def classes(self, background: int) -> torch.Tensor:
        """int64, shape of ``label``: the matched object's class, ``background`` for label 0 and -1 for label -1."""
        classes = torch.where(self.label == 0, background, self._gt_classes[self._gt_row])
        return torch.where(self.label < 0, -1, classes)

    def gt_boxes(self) -> torch.Tensor:
        """float32, shape of ``label`` and 4: the matched object's box; arbitrary where the image has no object."""
        return self._gt_boxes[self._gt_row]


def pack_boxes(boxes: list[Boxes]) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`pack` for boxes, as float32 [R, 4]: half-precision boxes would round away most of their IoU."""
    packed, offsets = pack([b.tensor for b in boxes])
    return packed.float(), offsets


def match_to_instances(boxes: list[Boxes] | Boxes, targets: list[Instances], matcher: Matcher) -> Matches:
    """Matches boxes to the annotated objects of their image.

    Args:
        boxes: N ``Boxes``, one for each image, or one ``Boxes`` (anchors) that all images share.
        targets: N ``Instances`` with ``gt_boxes`` and, if classes will be needed, ``gt_classes``.
        matcher: Detectron2's, for its thresholds and labels.
    """
    gt_boxes, gt_offsets = pack_boxes([t.gt_boxes for t in targets])
    if isinstance(boxes, Boxes):
        packed, offsets = boxes.tensor.float(), None
    else:
        packed, offsets = pack_boxes(boxes)
    idx, iou, label = ops.match_boxes(
        packed,
        gt_boxes,
        offsets,
        gt_offsets,
        matcher.thresholds[1:-1],  # Matcher puts infinities around them
        matcher.labels,
        allow_low_quality=matcher.allow_low_quality_matches,
    )
    first_gt = gt_offsets[:-1].to(packed.device, non_blocking=True)
    gt_row = idx + (first_gt[:, None] if offsets is None else first_gt[image_of_row(offsets, packed)])
    # An image without objects points at the row behind its (empty) range; the last such row needs to exist.
    gt_classes = [t.gt_classes for t in targets if t.has("gt_classes")]
    gt_classes = pack(gt_classes)[0] if gt_classes else gt_boxes.new_zeros(len(gt_boxes), dtype=torch.int64)
    return Matches(
        idx,
        iou,
        label,
        offsets,
        torch.cat([gt_boxes, gt_boxes.new_zeros(1, 4)]),
        torch.cat([gt_classes, gt_classes.new_zeros(1)]),
        gt_row,
    )
