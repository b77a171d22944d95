"""The torchvision backbone: which maps it finds, what it loads, what it freezes, what FPN makes of it."""

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from libra_d2 import get_cfg
from libra_d2.modeling.backbone.torchvision_fpn import TorchvisionBackbone

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        # channels of the last block at each stride, from the papers' architecture tables
        ("resnet18", [64, 128, 256, 512]),
        ("mobilenet_v2", [24, 32, 96, 1280]),
        ("mobilenet_v3_large", [24, 40, 112, 960]),
        ("efficientnet_b0", [24, 40, 112, 1280]),
        ("convnext_tiny", [96, 192, 384, 768]),
    ],
)
def test_it_finds_the_last_map_at_each_stride(name, channels):
    backbone = TorchvisionBackbone(name)
    maps = backbone(torch.zeros(2, 3, 64, 96))
    assert list(maps) == list(STRIDES)
    for (stage, stride), width in zip(STRIDES.items(), channels, strict=True):
        assert maps[stage].shape == (2, width, 64 // stride, 96 // stride)
        assert backbone.output_shape()[stage] == ShapeSpec(channels=width, stride=stride)


def test_its_maps_are_those_of_the_classifier(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = TorchvisionBackbone("resnet18", str(tmp_path / "weights.pth"))
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))
    torch.testing.assert_close(backbone(x)["res2"], expected)  # the backbone trains: its statistics are frozen
    expected = model.layer4(model.layer3(model.layer2(expected)))
    torch.testing.assert_close(backbone(x)["res5"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("freeze_at", "frozen_prefixes"),
    [
        (0, ()),
        (1, ("body.conv1.",)),
        (2, ("body.conv1.", "body.layer1.")),
        (5, ("body.conv1.", "body.layer1.", "body.layer2.", "body.layer3.", "body.layer4.")),
    ],
)
def test_freeze_at_counts_stages_as_detectron2_does(freeze_at, frozen_prefixes):
    backbone = TorchvisionBackbone("resnet18", freeze_at=freeze_at)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad is not name.startswith(frozen_prefixes or "no parameter"), name


def test_no_batch_norm_is_trained():
    backbone = TorchvisionBackbone("mobilenet_v2")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())


def _cfg(**fpn):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = list(STRIDES)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    for key, value in fpn.items():
        cfg.MODEL.FPN[key] = value
    return cfg


def test_fpn_has_p2_to_p6_for_rcnn():
    backbone = build_backbone(_cfg())
    pyramid = backbone(torch.zeros(1, 3, 64, 64))
    assert {level: tuple(x.shape) for level, x in pyramid.items()} == {
        f"p{i}": (1, 16, 64 >> i, 64 >> i) for i in range(2, 7)
    }
    assert backbone.size_divisibility == 32


def test_fpn_has_p3_to_p7_for_retinanet():
    pyramid = build_backbone(_cfg(IN_FEATURES=["res3", "res4", "res5"]))(torch.zeros(1, 3, 128, 128))
    assert {level: x.shape[-1] for level, x in pyramid.items()} == {f"p{i}": 128 >> i for i in range(3, 8)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilnet_v2", r"TORCHVISION.NAME: expected a classifier .* got 'mobilnet_v2'; did you mean .*'mobilenet_v2'"),
        ("squeezenet1_1", r"TORCHVISION.NAME: .* at strides \[4, 8, 16, 32\], got 'squeezenet1_1'"),
        ("swin_t", r"TORCHVISION.NAME: expected a model with \[N, C, H, W\] .* got 'swin_t'"),  # [N, H, W, C] inside
        ("vit_b_16", r"TORCHVISION.NAME: expected a model that takes images of any size, got 'vit_b_16'"),
    ],
)
def test_a_model_without_the_maps_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone(name)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="TORCHVISION.WEIGHTS: expected a file, .*IMAGENET1K_V1.* '' will do"):
        TorchvisionBackbone("resnet18", str(tmp_path / "missing.pth"))
    path = tmp_path / "other.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    with pytest.raises(
        ValueError, match="expected the state dict of torchvision's resnet18, .* such as 'conv1.weight'"
    ):
        TorchvisionBackbone("resnet18", str(path))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="TORCHVISION.WEIGHTS: .*got a web page"):
        TorchvisionBackbone("resnet18", str(path))
