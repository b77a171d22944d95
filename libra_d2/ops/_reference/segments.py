"""Counts, maxima and ranks inside images and segments, without a loop and without asking the device how many."""

import torch
from torch import Tensor


def count_in_image(image: Tensor, counted: Tensor, images: int) -> Tensor:
    """int64 [images]: how many rows of each image are ``counted``."""
    return image.new_zeros(images).index_add_(0, image, counted.long())


def max_in_image(image: Tensor, values: Tensor, images: int) -> Tensor:
    """[images]: the largest value of each image's rows."""
    return values.new_full((images,), -float("inf")).scatter_reduce_(0, image, values, "amax")


def smallest(segment: Tensor, competing: Tensor, key: Tensor, quota: Tensor) -> Tensor:
    """bool [R]: whether a competing row is among the ``quota[segment]`` smallest of its segment by (key, row).

    Keys have at most 32 bits.
    """
    nobody = quota.shape[0]
    segment = torch.where(competing, segment, nobody)
    order = torch.argsort(segment << 32 | key, stable=True)
    segment = segment.index_select(0, order)
    first = torch.searchsorted(segment, torch.arange(nobody + 1, device=segment.device))
    rank = torch.arange(segment.shape[0], device=segment.device) - first.index_select(0, segment)
    quota = torch.cat([quota, quota.new_zeros(1)])
    return torch.empty_like(competing).scatter_(0, order, rank < quota.index_select(0, segment))
