"""The sums at a pyramid's finer levels, in the form of which ``torch.compile`` makes one pass over each level."""

from collections.abc import Sequence

from torch import Tensor, nn


class FinerSums(nn.Module):
    """Adds a map to finer levels, each of its pixels repeated ``factor`` x ``factor`` times.

    It has no weights; as a module it has factors that are constants to ``torch.compile``, which else divides by them at
    every pixel. ``F.interpolate`` would be compiled to a gather, and its gradient to a scatter.

    Args:
        factors: how many times each level is as high, and as wide, as the map.
    """

    def __init__(self, factors: Sequence[int]):
        super().__init__()
        self.factors = tuple(factors)

    def fit(self, x: Tensor, levels: Sequence[Tensor]) -> bool:
        """Whether the levels are exactly as large, so that this equals resizing by nearest neighbours."""
        height, width = x.shape[-2:]
        sizes = [(height * factor, width * factor) for factor in self.factors]
        return all(level.shape[-2:] == size for level, size in zip(levels, sizes, strict=True))

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps x (N, C, H, W) and levels (N, C, factor * H, factor * W) to sums of the levels' sizes and types."""
        n, c, height, width = x.shape
        sums = []
        for level, factor in zip(levels, self.factors, strict=True):
            repeated = x.to(level.dtype)[:, :, :, None, :, None].expand(n, c, height, factor, width, factor)
            sums.append(level + repeated.reshape(n, c, height * factor, width * factor))
        return sums
