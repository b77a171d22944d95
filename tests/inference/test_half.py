"""Half precision: what computes in float16, what stays float32, and that the pyramid is nearly the same."""

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model

from libra_d2.inference.half import in_half
from tests.modeling.builders import ARCHITECTURES, small_cfg, small_config_name

SMOOTH = ("MODEL.LIBRA.BFP.ATTENTION", "cosine")  # of random weights the paper's softmax is all or nothing
TORCHVISION = ("MODEL.BACKBONE.NAME", "build_torchvision_fpn_backbone", "MODEL.LIBRA.TORCHVISION.NAME", "resnet18")


def built(architecture, *opts):
    torch.manual_seed(0)
    return build_model(small_cfg(small_config_name(architecture), *SMOOTH, *opts)).eval()


def types(module):
    return {name: values.dtype for name, values in module.state_dict().items() if values.is_floating_point()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backbone_and_heads_are_half_and_the_rest_is_not(architecture):
    model = built(architecture)
    before = types(model)
    half = types(in_half(model))
    assert types(model) == before, "the model itself is left alone"
    heads = ("backbone", "head", "proposal_generator.rpn_head", "roi_heads.box_head")
    for name, kind in half.items():
        expected = name.startswith(heads) and "backbone.refine." not in name
        assert kind == (torch.float16 if expected else torch.float32), name


@pytest.mark.parametrize("opts", [(), ("MODEL.RESNETS.NORM", "BN"), TORCHVISION], ids=["frozen", "BN", "torchvision"])
def test_the_pyramid_is_nearly_the_same(opts):
    model = built("faster_rcnn", *opts)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.mul_(1e6)  # which float16 does not hold
            module.weight.data.mul_(1e3)
    half = in_half(model)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for level, found in zip(model.backbone(images).values(), half.backbone(images).values(), strict=True):
            assert found.dtype == torch.float32
            error = (found - level).abs().max() / level.abs().max()
            assert 0 < error < 0.02


def test_normalisation_of_a_convolution_becomes_part_of_it():
    half = in_half(built("faster_rcnn"))
    assert all(module.norm is None for module in half.backbone.modules() if isinstance(module, Conv2d))
