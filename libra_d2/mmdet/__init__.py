"""Weights and settings of MMDetection's Libra R-CNN, in both directions."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.mmdet.names import Architecture, CheckpointError, batch_counters, to_detectron2, to_mmdet
from libra_d2.mmdet.options import mmdet_options, refuse_other_boxes
from libra_d2.mmdet.reader import STAND_INS, read_mmdet, read_published, read_tensors

__all__ = [
    "STAND_INS",
    "Architecture",
    "CheckpointError",
    "batch_counters",
    "mmdet_options",
    "read_mmdet",
    "read_published",
    "read_tensors",
    "refuse_other_boxes",
    "to_detectron2",
    "to_mmdet",
]
