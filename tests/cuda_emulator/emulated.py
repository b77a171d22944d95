"""The emulated CUDA kernels as a stand-in for ``torch.ops.libra_d2`` on CPU tensors."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor

from libra_d2.ops import _library

from .build import compile_emulated

ORDERS = ("forward", "reverse", "random")


@functools.cache
def _load(arch: int) -> ctypes.CDLL:
    return ctypes.CDLL(
        str(
            compile_emulated(f"emulated_{arch}.so", ["emulated_ops.cpp"], ["-O2", "-shared", f"-DEMULATOR_ARCH={arch}"])
        )
    )


def _pointer(tensor: Tensor | None):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _aligned(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


class EmulatedOps:
    """Schemas as in ``libra_d2.ops._library``; the arguments choose how the kernels are run.

    They check numbers and names, which the kernels' own headers do, but no tensors.

    Args:
        order: in which the threads of a block run; "random" also switches at atomics.
        arch: the GPU generation whose code paths are compiled.
        swept: sample with the grid-wide kernels that go before the selection in large images.
        list_slack: how much longer than expected their lists are; a very negative value makes them too short.

    Attributes:
        distrusted: whether the last call of bucketed_sample had to list all boxes after all.
    """

    distrusted: bool | None = None

    def __init__(self, order="forward", *, seed=1, arch=800, swept=False, list_slack=16, threads=256):
        self._library = _load(arch)
        self._options = (ORDERS.index(order), ctypes.c_uint64(seed), order == "random")
        self._swept, self._list_slack, self._threads = swept, list_slack, threads

    @property
    def launches(self) -> int:
        """How many kernels the last call launched; offsets are taken to be on the CPU."""
        return self._library.emulated_launches()

    def _unless_refused(self, result: int) -> bool:
        if result < 0:
            self._library.emulated_refusal.restype = ctypes.c_char_p
            raise ValueError(self._library.emulated_refusal().decode())
        return bool(result)

    def match_boxes(self, boxes, gt_boxes, box_offsets, gt_offsets, thresholds, labels, allow_low_quality):
        images = gt_offsets.shape[0] - 1
        shape = (images, boxes.shape[0]) if box_offsets is None else (boxes.shape[0],)
        index, iou, label = (torch.full(shape, -9, dtype=t) for t in (torch.int64, torch.float32, torch.int8))
        inputs = [_aligned(boxes), _aligned(gt_boxes), box_offsets, gt_offsets.contiguous()]
        if box_offsets is not None:
            inputs[2] = box_offsets.contiguous()
        self._library.emulated_options(*self._options)
        self._unless_refused(
            self._library.emulated_match(
                *map(_pointer, inputs),
                *map(ctypes.c_int64, (images, boxes.shape[0], gt_boxes.shape[0])),
                (ctypes.c_double * len(thresholds))(*thresholds),
                ctypes.c_int64(len(thresholds)),
                (ctypes.c_int64 * len(labels))(*labels),
                ctypes.c_int64(len(labels)),
                int(allow_low_quality),
                *map(_pointer, (index, iou, label)),
            )
        )
        return index, iou, label

    def batched_iou(self, boxes, gt_boxes, box_offsets, gt_offsets, numel):
        ious = torch.full((numel,), -9.0)
        inputs = [_aligned(boxes), _aligned(gt_boxes), box_offsets.contiguous(), gt_offsets.contiguous()]
        self._library.emulated_options(*self._options)
        self._library.emulated_iou(
            *map(_pointer, inputs),
            *map(ctypes.c_int64, (gt_offsets.shape[0] - 1, boxes.shape[0], gt_boxes.shape[0])),
            _pointer(ious),
            ctypes.c_int64(numel),
        )
        return ious

    def bucketed_sample(
        self,
        labels,
        ious,
        matched_idx,
        offsets,
        seed,
        num_samples,
        positive_fraction,
        positive,
        negative,
        num_bins,
        bin_upper,
        bin_upper_value,
        floor_thr,
        floor_fraction,
        neg_pos_ub,
    ):
        images = offsets.shape[0] - 1
        indices = torch.full((images, num_samples if 0 < num_samples <= 1 << 24 else 0), -9)  # else it is refused
        num_positive, num_negative = torch.full((images,), -9), torch.full((images,), -9)
        inputs = [tensor.contiguous() for tensor in (labels, ious, matched_idx, offsets)]
        self._library.emulated_options(*self._options)
        self.distrusted = self._unless_refused(
            self._library.emulated_sample(
                *map(_pointer, inputs),
                *map(ctypes.c_int64, (images, labels.shape[0], seed.item(), num_samples)),
                ctypes.c_double(positive_fraction),
                positive.encode(),
                negative.encode(),
                ctypes.c_int64(num_bins),
                bin_upper.encode(),
                *map(ctypes.c_double, (bin_upper_value, floor_thr, floor_fraction, neg_pos_ub)),
                self._swept,
                self._list_slack,
                self._threads,
                *map(_pointer, (indices, num_positive, num_negative)),
            )
        )
        return indices, num_positive, num_negative


@contextlib.contextmanager
def emulated(*args, **kwargs) -> Iterator[EmulatedOps]:
    """Inside, the public functions of ``libra_d2.ops`` run the emulated kernels; arguments as in EmulatedOps."""
    with mock.patch.object(_library, "ops", EmulatedOps(*args, **kwargs)) as kernels:
        yield kernels
