"""Ragged batches: the rows of all images in one tensor, and int64 ``offsets`` [N + 1] that tell the images apart."""

import itertools

import torch
from torch import Tensor


def pack(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenates the tensors of the images along the first axis.

    Args:
        tensors: N tensors of shapes [R_n, ...], at least one.

    Returns:
        The packed tensor [R, ...] and its offsets, int64 [N + 1], on the CPU: image n owns rows
        ``offsets[n]:offsets[n + 1]``. Where a GPU is to read them they are in pinned memory, so that neither waits.

    Raises:
        ValueError: there is no tensor.
    """
    if not tensors:
        raise ValueError("pack: expected at least one tensor, got none")
    starts = list(itertools.accumulate((len(t) for t in tensors), initial=0))
    offsets = torch.tensor(starts, dtype=torch.int64, pin_memory=tensors[0].is_cuda)
    return torch.cat(tensors), offsets


def image_of_row(offsets: Tensor, rows: Tensor) -> Tensor:
    """The image that owns each row of a packed tensor; the host does not wait for the device.

    Args:
        offsets: int64 [N + 1], on the device of ``rows`` or on the CPU.
        rows: [R, ...], of which only the shape and the device matter.

    Returns:
        int64 [R], on the device of ``rows``. Rows outside of bad offsets go to the first or last image.
    """
    row = torch.arange(rows.shape[0], device=rows.device)
    image = torch.searchsorted(offsets.to(rows.device, non_blocking=True), row, right=True) - 1
    return image.clamp_(min=0, max=max(0, offsets.shape[0] - 2))
