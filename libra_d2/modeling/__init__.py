"""The modules of libra_d2; importing this package fills Detectron2's registries."""

from libra_d2.modeling.bfp import BalancedFeaturePyramid, build_bfp_backbone
from libra_d2.modeling.box_predictor import LibraFastRCNNOutputLayers
from libra_d2.modeling.box_sampler import BOX_SAMPLER_REGISTRY, BalancedSampler, OHEMSampler
from libra_d2.modeling.meta_arch import LibraRCNN, LibraRetinaNet
from libra_d2.modeling.pafpn import PAFPN, build_resnet_pafpn_backbone
from libra_d2.modeling.roi_heads import LibraCascadeROIHeads, LibraROIHeads
from libra_d2.modeling.rpn import LibraRPN
from libra_d2.modeling.torchvision_fpn import build_torchvision_fpn_backbone

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
