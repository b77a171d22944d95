"""The ops in plain torch: what runs where the compiled core was not built, and what the core must equal bit for bit."""

from .iou import batched_iou
from .match import match_boxes
from .sample import bucketed_sample

__all__ = ["batched_iou", "bucketed_sample", "match_boxes"]
