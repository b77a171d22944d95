import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone

from libra_d2.modeling import PAFPN
from tests.modeling.builders import small_cfg


def build(name, *opts):
    torch.manual_seed(0)
    return build_backbone(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.BACKBONE.NAME", name, *opts)).eval()


def test_adds_the_bottom_up_path_to_fpn():
    fpn, pafpn = build("build_resnet_fpn_backbone"), build("build_resnet_pafpn_backbone")
    missing, unexpected = pafpn.load_state_dict(fpn.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.startswith("pafpn_") for key in missing)

    x = torch.randn(1, 3, 64, 96)
    inner, out = fpn(x), pafpn(x)
    weights = dict(pafpn.named_parameters())

    def conv(name, tensor, stride=1):
        return F.conv2d(tensor, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1)

    n3 = inner["p3"] + conv("pafpn_downsample3", inner["p2"], stride=2)
    n4 = inner["p4"] + conv("pafpn_downsample4", n3, stride=2)
    n5 = inner["p5"] + conv("pafpn_downsample5", n4, stride=2)
    expected = {"p2": inner["p2"], "p3": conv("pafpn_output3", n3), "p4": conv("pafpn_output4", n4)}
    expected["p5"] = conv("pafpn_output5", n5)
    expected["p6"] = expected["p5"][:, :, ::2, ::2]
    assert list(out) == list(expected)
    for name in expected:
        torch.testing.assert_close(out[name], expected[name])


def test_bfp_wraps_it():
    cfg = ("MODEL.LIBRA.BFP.BOTTOM_UP", "build_resnet_pafpn_backbone")
    backbone = build("build_bfp_backbone", *cfg)
    assert isinstance(backbone.bottom_up, PAFPN)
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5", "p6"]
