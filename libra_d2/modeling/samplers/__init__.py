"""Samplers of boxes, one file each; importing this package registers them."""

from libra_d2.modeling.samplers.balanced import BalancedSampler
from libra_d2.modeling.samplers.ohem import OHEMSampler

__all__ = ["BalancedSampler", "OHEMSampler"]
