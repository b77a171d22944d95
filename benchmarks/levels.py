"""FPN's levels without FPN, for what is measured from them on."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


class Levels(Backbone):
    """A bottom-up half that gives the levels that it is given."""

    def __init__(self, channels: int):
        super().__init__()
        self._shapes = {name: ShapeSpec(channels=channels, stride=stride) for name, stride in STRIDES.items()}

    def output_shape(self):
        return self._shapes

    def forward(self, x):
        return x


def random_levels(images: int, channels: int, height: int, width: int, **options) -> dict[str, torch.Tensor]:
    """{level: [N, C, h, w]} of images of that height and width; ``options`` are those of torch.randn."""
    sizes = {name: (-(-height // stride), -(-width // stride)) for name, stride in STRIDES.items()}
    return {name: torch.randn(images, channels, *size, **options) for name, size in sizes.items()}
