"""Adaptive max pooling to a size that may be symbolic, which torch's operator fixes when a model is exported."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_max_pool2d(x: Tensor, size: Sequence[int | torch.SymInt]) -> Tensor:
    """torch's function of that name; where torch.export leaves the size open, :func:`gathered_max_pool2d`.

    Args:
        x: [N, C, H, W].
        size: height and width of what comes out.
    """
    if any(isinstance(side, torch.SymInt) for side in size):
        return gathered_max_pool2d(x, size)
    return F.adaptive_max_pool2d(x, size)


def gathered_max_pool2d(x: Tensor, size: Sequence[int | torch.SymInt]) -> Tensor:
    """Adaptive max pooling by gathering each window and taking its maximum; the values are the same."""
    height, width = x.shape[2:]  # both before either is pooled: tracing for ONNX would take the second for a constant
    return _largest(_largest(x, 2, height, size[0]), 3, width, size[1])


def _largest(x: Tensor, dim: int, length: int | torch.SymInt, size: int | torch.SymInt) -> Tensor:
    """Maxima along ``dim``, ``length`` long, over ``size`` windows that are those of adaptive pooling."""
    widest = length // size + 2
    window = torch.arange(size, device=x.device)
    first, end = window * length // size, ((window + 1) * length + size - 1) // size
    inside = torch.minimum(first[:, None] + torch.arange(widest, device=x.device), end[:, None] - 1)
    return x.index_select(dim, inside.flatten()).unflatten(dim, (size, widest)).amax(dim + 1)
