"""Label assignment and box sampling for a whole batch at once.

A ragged batch is a packed tensor and int64 ``offsets`` of shape [N + 1]: image ``n`` owns the rows
``offsets[n]:offsets[n + 1]``. Boxes are float32 XYXY in absolute pixels. Offsets may live on the boxes' device or on
the CPU; :mod:`libra_d2.ops.ragged` makes them.

These functions raise TypeError for a wrong type or dtype and ValueError for the rest. ``torch.ops.libra_d2``, called
directly, raises ValueError for both where the compiled core serves.

Shape letters: N images, R packed boxes, A boxes shared by all images, G packed ground truths, S samples per image.
"""

from ._library import backend, has_cuda
from .iou import batched_iou
from .match import match_boxes
from .sample import bucketed_sample

__all__ = ["backend", "batched_iou", "bucketed_sample", "has_cuda", "match_boxes"]
