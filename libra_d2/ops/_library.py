"""Where the ops come from: the compiled core when it is there, else the reference implementation in pure torch.

Both answer to ``torch.ops.libra_d2``. The reference is registered for every backend, and a kernel of the core for a
device takes its place there: with a core built without CUDA, CUDA tensors go through the reference.
"""

import functools
import logging
import os

import torch

from . import _core, _reference
from ._checks import CHECKS, offset_values

# The core defines the same schemas in csrc/ops.cpp; a test compares them.
SCHEMAS = {
    "match_boxes": "(Tensor boxes, Tensor gt_boxes, Tensor? box_offsets, Tensor gt_offsets, float[] thresholds, "
    "int[] labels, bool allow_low_quality) -> (Tensor, Tensor, Tensor)",
    "batched_iou": "(Tensor boxes, Tensor gt_boxes, Tensor box_offsets, Tensor gt_offsets, SymInt numel) -> Tensor",
    "bucketed_sample": "(Tensor labels, Tensor ious, Tensor matched_idx, Tensor offsets, Tensor seed, "
    "SymInt num_samples, float positive_fraction, str positive, str negative, int num_bins, str bin_upper, "
    "float bin_upper_value, float floor_thr, float floor_fraction, float neg_pos_ub) -> (Tensor, Tensor, Tensor)",
}


def backend() -> str:
    """``"native"`` when the compiled core is in use, ``"torch"`` when the pure-torch reference is."""
    return "native" if _core.loaded() else "torch"


def has_cuda() -> bool:
    """Whether the compiled core in use has CUDA kernels."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("libra_d2::match_boxes", "CUDA")


def call(op: str, *args):
    """Calls the op. The first call logs the backend; ``LIBRA_D2_DEBUG=1`` checks offsets that live on a device, too."""
    if not torch.compiler.is_compiling():
        _log_backend()
        if os.environ.get("LIBRA_D2_DEBUG") == "1":
            for name, offsets, rows in CHECKS[op](*args):
                offset_values(op, name, offsets.tolist(), rows)
    return getattr(ops, op)(*args)


@functools.cache
def _log_backend() -> None:
    logging.getLogger("libra_d2.ops").info("ops backend: %s", _core.status())


def _fake_match_boxes(boxes, gt_boxes, box_offsets, gt_offsets, thresholds, labels, allow_low_quality):
    CHECKS["match_boxes"](boxes, gt_boxes, box_offsets, gt_offsets, thresholds, labels, allow_low_quality)
    rows = (gt_offsets.shape[0] - 1, boxes.shape[0]) if box_offsets is None else (boxes.shape[0],)
    return (
        boxes.new_empty(rows, dtype=torch.int64),
        boxes.new_empty(rows),
        boxes.new_empty(rows, dtype=torch.int8),
    )


def _fake_batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, numel):
    CHECKS["batched_iou"](boxes, gt_boxes, box_offsets, gt_offsets, numel)
    return boxes.new_empty((numel,))


def _fake_bucketed_sample(labels, ious, matched_idx, offsets, seed, num_samples, *options):
    CHECKS["bucketed_sample"](labels, ious, matched_idx, offsets, seed, num_samples, *options)
    images = offsets.shape[0] - 1
    indices = labels.new_empty((images, num_samples), dtype=torch.int64)
    counts = labels.new_empty((images,), dtype=torch.int64)
    return indices, counts, torch.empty_like(counts)


_FAKES = {
    "match_boxes": _fake_match_boxes,
    "batched_iou": _fake_batched_iou,
    "bucketed_sample": _fake_bucketed_sample,
}

_core.load()
ops = torch.ops.libra_d2
for _name, _schema in SCHEMAS.items():
    if not _core.loaded():
        torch.library.define(f"libra_d2::{_name}", _schema)
    torch.library.impl(f"libra_d2::{_name}", "default", getattr(_reference, _name))
    torch.library.register_fake(f"libra_d2::{_name}", _FAKES[_name])
