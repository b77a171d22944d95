"""Losses of box deltas; a new one is a file here, or in your own code, and a name in BOX_LOSS_REGISTRY."""

from libra_d2.losses.balanced_l1 import balanced_l1_loss
from libra_d2.losses.registry import BOX_LOSS_REGISTRY

__all__ = ["BOX_LOSS_REGISTRY", "balanced_l1_loss"]
