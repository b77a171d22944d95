"""How far the detections of an exported model are from PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """What detections may differ by.

    Attributes:
        pixels: a corner of a box, at most.
        value: a score, or a pixel of a mask, at most.
        strays: the share of all detections that only one of the two may have found, as near a threshold.
    """

    pixels: float
    value: float
    strays: float


@dataclass(frozen=True)
class Agreement:
    """What two lists of detections have in common.

    Attributes:
        expected, found: how many there are.
        strays: those of either without a counterpart in the other.
        pixels, value: how far those with a counterpart are from it at most; see :class:`Tolerance`.
    """

    expected: int
    found: int
    strays: int
    pixels: float
    value: float

    def is_within(self, tolerance: Tolerance) -> bool:
        return self.strays <= tolerance.strays * (self.expected + self.found)

    def __str__(self) -> str:
        return (
            f"{self.expected} detections of PyTorch, {self.found} found, {self.strays} of them in one list alone, "
            f"the others within {self.pixels:.1g} pixels and {self.value:.1g} of a score"
        )


def compare(expected: Instances, found: Mapping[str, Tensor], tolerance: Tolerance) -> Agreement:
    """Looks for each detection's nearest counterpart of the same class; their order may differ where scores nearly tie.

    Args:
        expected: with ``pred_boxes``, ``pred_classes``, ``scores`` and maybe ``pred_masks``.
        found: the fields of the same names; boxes [N, 4].
        tolerance: a pair that is further apart is none.
    """
    wanted = {name: getattr(value, "tensor", value) for name, value in expected.get_fields().items()}
    apart = (wanted["pred_boxes"][:, None] - found["pred_boxes"]).abs().amax(2)
    apart[wanted["pred_classes"][:, None] != found["pred_classes"]] = float("inf")
    values = torch.stack([_difference(wanted[name], found[name]) for name in wanted if name in _VALUES]).amax(0)
    are_pair = (apart <= tolerance.pixels) & (values <= tolerance.value)
    strays = sum(int((~are_pair.any(dim)).sum()) for dim in (0, 1))
    pixels, value = ((of[are_pair].max().item() if are_pair.any() else 0.0) for of in (apart, values))
    return Agreement(*apart.shape, strays, pixels, value)


def together(agreements: Sequence[Agreement]) -> Agreement:
    """That of several images."""
    counts = (sum(getattr(each, name) for each in agreements) for name in ("expected", "found", "strays"))
    return Agreement(*counts, *(max(getattr(each, name) for each in agreements) for name in ("pixels", "value")))


_VALUES = ("scores", "pred_masks")


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """[N, M]: the largest difference between each value of [N, ...] and each of [M, ...]."""
    one, other = (values[:, None].flatten(1) for values in (one, other))
    return (one[:, None] - other).abs().amax(2)  # torch.cdist passes over NaN
