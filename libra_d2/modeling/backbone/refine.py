"""What refines the mean of a pyramid's levels (Libra R-CNN, section 3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from libra_d2.modeling import balance_scalars

ATTENTIONS = ("unscaled", "scaled", "cosine")


class NonLocalRefine(nn.Module):
    """Embedded-Gaussian non-local block: ``x + conv_out(softmax(theta(x)^T phi(x)) g(x))``.

    Maps (N, C, H, W) to (N, C, H, W). It runs in float32 under autocast: the logits are sums over all channels without
    the usual 1 / sqrt(C) and leave the range of float16.

    Args:
        channels: C.
        attention: what the softmax is taken of: the products as they are ("unscaled", the paper's), divided by
            sqrt(C) ("scaled", as in transformers), or the cosines between theta and phi times sqrt(C) ("cosine",
            which keeps its spread whatever the size of the features).
    """

    def __init__(self, channels: int, attention: str = "unscaled"):
        super().__init__()
        self.attention = attention
        self.theta = nn.Conv2d(channels, channels, 1)
        self.phi = nn.Conv2d(channels, channels, 1)
        self.g = nn.Conv2d(channels, channels, 1)
        self.conv_out = nn.Conv2d(channels, channels, 1)

    @property
    def last(self) -> nn.Conv2d:
        return self.conv_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            # Each position's channels side by side: strided q, k, v would send torch down the path that stores the
            # (HW, HW) matrix.
            rows = wide.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
            query, key, value = (_conv1x1(conv, rows) for conv in (self.theta, self.phi, self.g))
            if self.attention == "cosine":
                query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
            root = math.sqrt(query.shape[-1])
            scale = {"unscaled": 1.0, "scaled": 1 / root, "cosine": root}[self.attention]
            if self.training and (log := balance_scalars.due()):
                balance_scalars.log_attention(log, query, key, scale)
            mixed = F.scaled_dot_product_attention(query, key, value, scale=scale)
            out = _conv1x1(self.conv_out, mixed).squeeze(1).transpose(1, 2)
            return (wide + out.reshape(wide.shape)).to(x.dtype)


def _conv1x1(conv: nn.Conv2d, rows: torch.Tensor) -> torch.Tensor:
    """``conv`` of (..., HW, C), as the product of two matrices that it is."""
    return F.linear(rows, conv.weight.flatten(1), conv.bias)


class ConvRefine(nn.Module):
    """A 3x3 convolution with ReLU: (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    @property
    def last(self) -> nn.Conv2d:
        return self.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


REFINES = {"non_local": NonLocalRefine, "conv": ConvRefine, "none": None}
