"""Backbones: the balanced feature pyramid and what it can be wrapped around."""

from libra_d2.modeling.backbone.bfp import BalancedFeaturePyramid, build_bfp_backbone
from libra_d2.modeling.backbone.pafpn import PAFPN, build_resnet_pafpn_backbone
from libra_d2.modeling.backbone.torchvision_fpn import build_torchvision_fpn_backbone

__all__ = [
    "PAFPN",
    "BalancedFeaturePyramid",
    "build_bfp_backbone",
    "build_resnet_pafpn_backbone",
    "build_torchvision_fpn_backbone",
]
