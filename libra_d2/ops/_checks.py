"""What the ops refuse; every message reads "<op>: expected ..., got ...".

The public functions check the types of their arguments, and of tensors the dtypes: TypeError. The rest is checked in
the op, by :data:`CHECKS` in pure torch and in the fake kernels and by the core, in the same words: ValueError. Whoever
calls ``torch.ops.libra_d2`` directly gets that from the core for a dtype, too: its ABI has no TypeError.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

FLOAT32 = torch.finfo(torch.float32)

Offsets = list[tuple[str, Tensor, int]]  # their name, themselves, and the number of rows that they divide


def tensors(op: str, dtype: torch.dtype, **values) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(value).__name__}")
        if value.dtype != dtype or value.layout != torch.strided:
            _dtype(op, name, value, dtype)


# An isinstance of an abstract class costs more than the rest of a check: the common types come first.
def integer(op: str, name: str, value) -> int:
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{op}: expected {name} to be an integer, got {value!r}")
    return int(value)


def number(op: str, name: str, value) -> float:
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{op}: expected {name} to be a number, got {value!r}")
    return float(value)


def each(check: Callable, op: str, name: str, values) -> list:
    """The items of a sequence, each of which ``check`` lets pass."""
    # a tuple of types: Dynamo before torch 2.10 knows no unions
    if not isinstance(values, (list, tuple)) and (not isinstance(values, Sequence) or isinstance(values, str)):
        raise TypeError(f"{op}: expected {name} to be a sequence, got {type(values).__name__}")
    return [check(op, name, value) for value in values]


def _expect(true: bool, message: str, *parts, error: type[Exception] = ValueError) -> None:
    if not true:
        raise error(message % parts)


def offset_values(op: str, name: str, values: list[int], rows: int) -> None:
    _expect(values[0] == 0, "%s: expected %s to start at 0, got %d", op, name, values[0])
    for last, value in zip(values, values[1:], strict=False):
        if last > value:
            raise ValueError(f"{op}: expected {name} not to decrease, got {last} before {value}")
    _expect(values[-1] == rows, "%s: expected %s to end at %d, the number of rows, got %d", op, name, rows, values[-1])


def _dtype(op, name, value, dtype) -> None:
    wanted = "%s: expected %s to be a dense (strided) tensor, got %s"
    _expect(value.layout == torch.strided, wanted, op, name, value.layout, error=TypeError)
    _expect(value.dtype == dtype, "%s: expected %s of dtype %s, got %s", op, name, dtype, value.dtype, error=TypeError)


def _tensor(op, name, value, dtype, device) -> None:
    _dtype(op, name, value, dtype)
    _expect(value.device == device, "%s: expected %s on %s, got %s", op, name, device, value.device)


def _boxes(op, name, value, device) -> None:
    _tensor(op, name, value, torch.float32, device)
    in_fours = value.dim() == 2 and value.shape[1] == 4
    _expect(in_fours, "%s: expected %s of shape [R, 4], got %s", op, name, list(value.shape))


def _rows(op, name, value, dtype, rows, device) -> None:
    _tensor(op, name, value, dtype, device)
    message = "%s: expected %s of shape [%d], one value a row, got %s"
    _expect(value.dim() == 1 and value.shape[0] == rows, message, op, name, rows, list(value.shape))


def _offsets(op, name, value, device, images=None) -> None:
    _dtype(op, name, value, torch.int64)
    within_reach = value.device == device or value.device.type == "cpu"
    _expect(within_reach, "%s: expected %s on %s or on the CPU, got %s", op, name, device, value.device)
    in_a_row = value.dim() == 1 and value.shape[0] >= 1
    _expect(in_a_row, "%s: expected %s of shape [N + 1], got %s", op, name, list(value.shape))
    found = value.shape[0] - 1
    _expect(images in (None, found), "%s: expected %s for %s images, got %d", op, name, images, found)


def _finite(op, name, value) -> None:
    _expect(abs(value) < float("inf"), "%s: expected %s to be a finite number, got %s", op, name, value)


def _fraction(op, name, value) -> None:
    _expect(0 <= value <= 1, "%s: expected %s to be a number from 0 to 1, got %s", op, name, value)


def _count(op, name, value, most) -> None:
    _expect(value >= 1, "%s: expected %s >= 1, got %d", op, name, value)
    _expect(value <= most, "%s: expected %s <= %d, got %d", op, name, most, value)


def _choice(op, name, value, *allowed) -> None:
    listed = ", ".join(map(repr, allowed))
    _expect(value in allowed, "%s: expected %s to be one of %s, got %r", op, name, listed, value)


def _match_boxes(boxes, gt_boxes, box_offsets, gt_offsets, thresholds, labels, allow_low_quality) -> Offsets:
    op, most, intervals = "match_boxes", (1 << 31) - 1, len(thresholds) + 1
    found = _boxes_and_ground_truths(op, boxes, gt_boxes, box_offsets, gt_offsets)
    num_gt = gt_boxes.shape[0]
    _expect(num_gt <= most, "%s: expected at most %d ground truths, got %d", op, most, num_gt)
    _expect(len(thresholds) <= 15, "%s: expected at most 15 thresholds, got %d", op, len(thresholds))
    for last, value in zip([0.0, *thresholds], thresholds, strict=False):
        _finite(op, "thresholds", value)
        message = "%s: expected thresholds that are positive and finite in float32, got %s"
        _expect(FLOAT32.tiny <= value <= FLOAT32.max, message, op, value)
        _expect(last <= value, "%s: expected ascending thresholds, got %s", op, thresholds)
    message = "%s: expected %d labels, one more than thresholds, got %s"
    _expect(len(labels) == intervals, message, op, intervals, labels)
    for label in labels:
        _expect(-1 <= label <= 1, "%s: expected every label to be -1, 0 or 1, got %d", op, label)
    return found


def _batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, numel) -> Offsets:
    return _boxes_and_ground_truths("batched_iou", boxes, gt_boxes, box_offsets, gt_offsets)


def _boxes_and_ground_truths(op, boxes, gt_boxes, box_offsets, gt_offsets) -> Offsets:
    _boxes(op, "boxes", boxes, boxes.device)
    _boxes(op, "gt_boxes", gt_boxes, boxes.device)
    _offsets(op, "gt_offsets", gt_offsets, boxes.device)
    if box_offsets is None:
        return [("gt_offsets", gt_offsets, gt_boxes.shape[0])]
    _offsets(op, "box_offsets", box_offsets, boxes.device, images=gt_offsets.shape[0] - 1)
    return [("gt_offsets", gt_offsets, gt_boxes.shape[0]), ("box_offsets", box_offsets, boxes.shape[0])]


def _bucketed_sample(labels, ious, matched_idx, offsets, seed, *options) -> Offsets:
    op, device, most = "bucketed_sample", labels.device, (1 << 30) - 1
    _dtype(op, "labels", labels, torch.int8)
    _expect(labels.dim() == 1, "%s: expected labels of shape [R], got %s", op, list(labels.shape))
    rows = labels.shape[0]
    _expect(rows <= most, "%s: expected at most %d boxes, got %d", op, most, rows)
    _rows(op, "ious", ious, torch.float32, rows, device)
    _rows(op, "matched_idx", matched_idx, torch.int64, rows, device)
    _offsets(op, "offsets", offsets, device)
    _tensor(op, "seed", seed, torch.int64, device)
    _expect(seed.dim() == 0, "%s: expected seed of shape [], got %s", op, list(seed.shape))
    _sample_options(op, *options)
    return [("offsets", offsets, rows)]


def _sample_options(
    op, num_samples, positive_fraction, positive, negative, num_bins, bin_upper, value, floor_thr, floor_fraction, ub
) -> None:
    _count(op, "num_samples", num_samples, 1 << 24)
    _fraction(op, "positive_fraction", positive_fraction)
    _choice(op, "positive", positive, "instance_balanced", "random")
    _choice(op, "negative", negative, "iou_balanced", "random")
    _count(op, "num_bins", num_bins, 1 << 16)
    _finite(op, "floor_thr", floor_thr)
    in_float32 = abs(floor_thr) <= FLOAT32.max
    _expect(in_float32, "%s: expected floor_thr to be finite in float32, got %s", op, floor_thr)
    _fraction(op, "floor_fraction", floor_fraction)
    _finite(op, "neg_pos_ub", ub)
    if bin_upper != "value":
        return _choice(op, "bin_upper", bin_upper, "max_all", "max_neg")
    _finite(op, "bin_upper", value)
    lowest = floor_thr if floor_thr > 0 else 0
    above = ctypes.c_float(lowest).value < ctypes.c_float(value).value and value <= FLOAT32.max
    message = "%s: expected bin_upper above max(floor_thr, 0) = %s, in float32, got %s"
    _expect(above, message, op, lowest, value)


# They take an op's arguments, check all but the values of tensors, and return the offsets among them.
CHECKS = {"match_boxes": _match_boxes, "batched_iou": _batched_iou, "bucketed_sample": _bucketed_sample}


def checked(function: Callable) -> Callable:
    """``function``, named as an op, which first checks its arguments; of offsets on the CPU the values as well."""

    @functools.wraps(function)
    def check_and_run(*args):
        for name, offsets, rows in CHECKS[function.__name__](*args):
            if offsets.device.type == "cpu":
                offset_values(function.__name__, name, offsets.tolist(), rows)
        return function(*args)

    return check_and_run
