"""Choosing rows by rank inside images and segments, without a loop and without asking the device how many."""

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


def pack_sample(
    image: Tensor, index: Tensor, positive: Tensor, negative: Tensor, num_positive: Tensor, num_samples: int
) -> Tensor:
    """int64 [N, num_samples]: the indices of the chosen rows, ascending, positives first; -1 where nothing is left.

    Args:
        image: int64 [R], the image of each row.
        index: int64 [R], its index inside the image.
        positive, negative: bool [R], the rows that were chosen, at most ``num_samples`` of an image together.
        num_positive: int64 [N], how many of an image are positive.
    """
    images = num_positive.shape[0]
    column = torch.zeros_like(index)
    for taken, first in ((positive, torch.zeros_like(num_positive)), (negative, num_positive)):
        count = count_in_image(image, taken, images)
        before = count.cumsum(0) - count
        column = torch.where(taken, taken.cumsum(0) - 1 + (first - before).index_select(0, image), column)
    nowhere = images * num_samples
    target = torch.where(positive | negative, image * num_samples + column, nowhere)
    packed = torch.full((nowhere + 1,), -1, dtype=torch.int64, device=index.device).scatter_(0, target, index)
    return packed[:nowhere].view(images, num_samples)
