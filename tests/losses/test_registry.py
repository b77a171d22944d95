"""A box loss is one function and one name, for RoI heads and RetinaNet."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from fvcore.nn import smooth_l1_loss

from libra_d2.checks import UserError
from libra_d2.losses.registry import BOX_LOSS_REGISTRY, build_box_loss
from tests.modeling.builders import batch, small_cfg

MODELS = {
    "libra_faster_rcnn_R_50_FPN_1x.yaml": ("MODEL.ROI_BOX_HEAD", "SMOOTH_L1_BETA"),
    "libra_retinanet_R_50_FPN_1x.yaml": ("MODEL.RETINANET", "SMOOTH_L1_LOSS_BETA"),
}


@pytest.fixture
def registered():
    """smooth L1 of fvcore under a name of its own."""

    def smooth(cfg):
        return lambda pred, target: smooth_l1_loss(pred, target, beta=0.5)

    BOX_LOSS_REGISTRY.register(smooth)
    yield "smooth"
    del BOX_LOSS_REGISTRY["smooth"]


def loss_of(config, *opts):
    torch.manual_seed(0)
    model = build_model(small_cfg(config, *opts))
    torch.manual_seed(0)
    with EventStorage():
        return model.train()(batch())["loss_box_reg"]


@pytest.mark.parametrize("config", MODELS)
def test_a_registered_loss_is_used_as_detectron2_uses_its_own(config, registered):
    key, beta = MODELS[config]
    own = loss_of(config, f"{key}.BBOX_REG_LOSS_TYPE", registered)
    theirs = loss_of(config, f"{key}.BBOX_REG_LOSS_TYPE", "smooth_l1", f"{key}.{beta}", 0.5)
    assert own > 0
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=0)


def test_a_loss_that_nobody_registered_is_refused_with_those_there_are(registered):
    assert build_box_loss(None, "smooth_l1") is None
    with pytest.raises(UserError, match=r"BBOX_REG_LOSS_TYPE: expected one of \[.*'balanced_l1', 'smooth'\], got 'l3'"):
        build_model(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "l3"))
