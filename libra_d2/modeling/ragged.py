"""Packing a list of per-image tensors into one tensor and offsets, the form that :mod:`libra_d2.ops` takes."""

import itertools

import torch
from detectron2.structures import Boxes


def pack(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Concatenates along the first axis.

    Args:
        tensors: N tensors of shapes [R_n, ...], at least one.

    Returns:
        The packed tensor [R, ...] and its offsets, int64 [N + 1], on the CPU: image n owns rows
        ``offsets[n]:offsets[n + 1]``. If a GPU will read them, they are in pinned memory, so that neither side waits.
    """
    starts = list(itertools.accumulate((len(t) for t in tensors), initial=0))
    offsets = torch.tensor(starts, dtype=torch.int64, pin_memory=tensors[0].is_cuda)
    return torch.cat(tensors), offsets


def pack_boxes(boxes: list[Boxes]) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`pack` for boxes, as float32 [R, 4]: half-precision boxes would round away most of their IoU."""
    packed, offsets = pack([b.tensor for b in boxes])
    return packed.float(), offsets


def image_of_row(offsets: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The image that each row of a packed tensor ``rows`` [R, ...] belongs to, int64 [R]; does not wait for the GPU."""
    lengths = offsets.to(rows.device, non_blocking=True).diff()
    return torch.repeat_interleave(lengths, output_size=len(rows))
