"""Which boxes a RoI head trains on: the registry of samplers. Ours are in ``samplers/``, one file each."""

from collections.abc import Callable
from typing import Protocol

import torch
from detectron2.utils.registry import Registry

from libra_d2.checks import choice

BOX_SAMPLER_REGISTRY = Registry("BOX_SAMPLER")
BOX_SAMPLER_REGISTRY.__doc__ = """
Samplers of boxes for RoI heads, chosen by ``MODEL.LIBRA.SAMPLER.NAME``.

The registered object is called with the config and returns a :class:`BoxSampler`.
"""

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class BoxSampler(Protocol):
    """Chooses the boxes of a batch to train on."""

    def __call__(
        self,
        labels: torch.Tensor,
        ious: torch.Tensor,
        matched_idx: torch.Tensor,
        offsets: torch.Tensor,
        losses: Callable[[], torch.Tensor],
    ) -> Sample:
        """Same return value as :func:`libra_d2.ops.bucketed_sample`.

        Args:
            labels: int8 [R], 1 positive, 0 negative, -1 ignored.
            ious: float32 [R], with the matched object.
            matched_idx: int64 [R], local to the image.
            offsets: int64 [N + 1], on the CPU: image n owns the rows ``offsets[n]:offsets[n + 1]``.
            losses: gives the current loss of every box, float32 [R], at the cost of a forward pass of the first-stage
                box head.

        Returns:
            ``indices`` int64 [N, S], local to each image, positives then negatives then -1, and the numbers of both,
            int64 [N] each.
        """
        ...


def build_box_sampler(cfg) -> BoxSampler:
    """The sampler named by ``MODEL.LIBRA.SAMPLER.NAME``."""
    name = choice(cfg, "MODEL.LIBRA.SAMPLER.NAME", (name for name, _ in BOX_SAMPLER_REGISTRY))
    return BOX_SAMPLER_REGISTRY.get(name)(cfg)
