"""Losses of box deltas and of class scores; a new one is a file here, or in your own code, and a name in a registry."""

from libra_d2.losses import class_losses  # noqa: F401  (registers its losses)
from libra_d2.losses.balanced_l1 import balanced_l1_loss, balanced_l1_of
from libra_d2.losses.prime_samples import prime_sample_weights
from libra_d2.losses.registry import BOX_LOSS_REGISTRY, CLASS_LOSS_REGISTRY

__all__ = ["BOX_LOSS_REGISTRY", "CLASS_LOSS_REGISTRY", "balanced_l1_loss", "balanced_l1_of", "prime_sample_weights"]
