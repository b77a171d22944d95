"""The modules of libra_d2; importing this package fills Detectron2's registries."""

from libra_d2.checks import require_detectron2

require_detectron2()

from libra_d2.modeling.backbone import (
    PAFPN,
    BalancedFeaturePyramid,
    build_bfp_backbone,
    build_resnet_pafpn_backbone,
    build_torchvision_fpn_backbone,
)
from libra_d2.modeling.box_predictor import LibraFastRCNNOutputLayers
from libra_d2.modeling.box_sampler import BOX_SAMPLER_REGISTRY
from libra_d2.modeling.meta_arch import LibraRCNN, LibraRetinaNet
from libra_d2.modeling.roi_heads import LibraCascadeROIHeads, LibraROIHeads
from libra_d2.modeling.rpn import LibraRPN
from libra_d2.modeling.samplers import BalancedSampler, OHEMSampler

__all__ = [
    "BOX_SAMPLER_REGISTRY",
    "PAFPN",
    "BalancedFeaturePyramid",
    "BalancedSampler",
    "LibraCascadeROIHeads",
    "LibraFastRCNNOutputLayers",
    "LibraRCNN",
    "LibraROIHeads",
    "LibraRPN",
    "LibraRetinaNet",
    "OHEMSampler",
    "build_bfp_backbone",
    "build_resnet_pafpn_backbone",
    "build_torchvision_fpn_backbone",
]
