"""The masks of a large image, held as what its tiles showed of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as mask_util


class TileMasks:
    """Takes the place of a bool tensor [N, H, W] in ``pred_masks``, which thousands of megabytes may not be enough for.

    ``masks[i]`` is a bool tensor [H, W], made when asked for; any other index gives fewer masks, as that of a tensor
    does. Detectron2's evaluators and its Visualizer take it as it is.

    Args:
        image_size: (height, width) of the image, pixels.
        parts: for each mask [(run-length mask of a tile, x, y of the tile's corner)].
    """

    def __init__(self, image_size: tuple[int, int], parts: Sequence[tuple[dict, int, int]]):
        self.image_size, self._parts = image_size, list(parts)

    @classmethod
    def of_tile(cls, masks: torch.Tensor, x: int, y: int, image_size: tuple[int, int]) -> TileMasks:
        """Of bool [N, h, w], the masks in a tile whose corner is (x, y)."""
        encoded = mask_util.encode(np.asfortranarray(masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8)))
        return cls(image_size, [(rle, x, y) for rle in encoded])

    @classmethod
    def cat(cls, masks: Sequence[TileMasks]) -> TileMasks:
        """All of them, of one image, in one; :meth:`detectron2.structures.Instances.cat` calls it."""
        return cls(masks[0].image_size, list(itertools.chain.from_iterable(each._parts for each in masks)))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, item) -> torch.Tensor | TileMasks:
        if isinstance(item, int):
            rle, x, y = self._parts[item]
            height, width = rle["size"]
            mask = torch.zeros(self.image_size, dtype=torch.bool)
            mask[y : y + height, x : x + width] = torch.from_numpy(mask_util.decode(rle)).bool()
            return mask
        chosen = torch.arange(len(self))[item.cpu() if isinstance(item, torch.Tensor) else item]
        return TileMasks(self.image_size, [self._parts[i] for i in chosen.tolist()])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """All at once, bool [N, H, W]."""
        masks = np.zeros((len(self), *self.image_size), dtype=bool)
        for place, mask in zip(masks, self, strict=True):
            place[:] = mask
        return masks if dtype is None else masks.astype(dtype)

    def to(self, *_) -> TileMasks:
        """Itself: they are in the CPU's memory, whatever the device."""
        return self
