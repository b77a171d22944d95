"""Whole models: they train on any batch, refuse wrong values, and start from a checkpoint's own detections."""

import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import libra_d2
from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.modeling import BalancedFeaturePyramid
from tests.modeling.builders import ARCHITECTURES, batch, random_boxes, small_cfg, small_config_name

LIBRA_OFF = {
    "faster_rcnn": ("LibraROIHeads", "StandardROIHeads"),
    "mask_rcnn": ("LibraROIHeads", "StandardROIHeads"),
    "cascade_rcnn": ("LibraCascadeROIHeads", "CascadeROIHeads"),
    "retinanet": None,
}


def detectron2_cfg(architecture, folder="finetune/"):
    """The same detector out of Detectron2's own parts."""
    opts = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "smooth_l1"]
    if architecture != "retinanet":
        opts = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
        opts += ["MODEL.ROI_HEADS.NAME", LIBRA_OFF[architecture][1]]
        opts += ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1"]
    return small_cfg(small_config_name(architecture, folder), *opts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trains_and_predicts(architecture):
    torch.manual_seed(0)
    model = build_model(small_cfg(small_config_name(architecture)))
    inputs = batch(3, masks="mask" in architecture)
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without_gradient = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []
    predictions = model.eval()(inputs)
    assert [p["instances"].image_size for p in predictions] == [(64, 96)] * 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_without_any_object_trains(architecture):
    torch.manual_seed(0)
    model = build_model(small_cfg(small_config_name(architecture))).train()
    inputs = batch(2, masks="mask" in architecture)
    with EventStorage():
        losses = model([inputs[1], inputs[1]])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("suffix", "pyramid"), [("pth", True), ("pkl", True), ("pth", False)])
def test_fine_tuning_starts_at_the_checkpoints_own_detections(architecture, suffix, pyramid, tmp_path):
    torch.manual_seed(1)
    plain = build_model(detectron2_cfg(architecture)).eval()
    state = plain.state_dict()
    path = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save({"model": state}, path)
    else:  # what Detectron2's model zoo holds
        numpy_state = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": numpy_state, "__author__": "Detectron2 Model Zoo"}))

    torch.manual_seed(2)
    cfg = small_cfg(small_config_name(architecture, "finetune/"), "MODEL.LIBRA.BFP.ENABLED", pyramid)
    libra = build_model(cfg).eval()
    assert isinstance(libra.backbone, BalancedFeaturePyramid) == pyramid
    DetectionCheckpointer(libra).load(str(path))
    for theirs, ours in zip(plain(batch()), libra(batch()), strict=True):
        theirs, ours = theirs["instances"].get_fields(), ours["instances"].get_fields()
        assert theirs.keys() == ours.keys()
        assert len(theirs["scores"]) > 0
        for name in theirs:
            a, b = (getattr(fields[name], "tensor", fields[name]) for fields in (theirs, ours))
            assert torch.equal(a, b), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_detectron2_takes_the_model_that_fine_tuning_leaves(architecture, tmp_path):
    """The recommended recipe changes what is trained, not the detector."""
    torch.manual_seed(1)
    trained = build_model(small_cfg(small_config_name(architecture, "finetune/"))).eval()
    checkpointer = LibraCheckpointer(trained, str(tmp_path))
    checkpointer.class_names = list("abcde")
    checkpointer.save("model")

    torch.manual_seed(2)
    plain = build_model(detectron2_cfg(architecture)).eval()
    DetectionCheckpointer(plain).load(str(tmp_path / "model.pth"))
    for ours, theirs in zip(trained(batch()), plain(batch()), strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) > 0
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.scores, theirs.scores)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.LIBRA.BFP.REFINE_LEVEL", "p9", "one of .*'p2', 'p3'"),
        ("MODEL.LIBRA.BFP.REFINE_TYPE", "gaussian", "'non_local', 'conv', 'none'"),
        ("MODEL.LIBRA.BFP.INIT", "ones", "'xavier', 'zero', 'mmdet', 'identity'"),
        ("MODEL.LIBRA.SAMPLER.NAME", "Balanced", "'BalancedSampler', 'OHEMSampler'"),
        ("MODEL.LIBRA.SAMPLER.POSITIVE", "iou_balanced", "'instance_balanced', 'random'"),
        ("MODEL.LIBRA.SAMPLER.NEGATIVE", "hard", "'iou_balanced', 'random'"),
        ("MODEL.LIBRA.SAMPLER.NUM_BINS", 0, "at least 1"),
        ("MODEL.LIBRA.SAMPLER.BIN_UPPER", "max", "'threshold', 'max_all', 'max_neg'"),
        ("MODEL.LIBRA.SAMPLER.FLOOR_THR", -0.5, "-1 or a number in"),
        ("MODEL.LIBRA.SAMPLER.FLOOR_THR", 0.7, "less than the highest negative IoU 0.5"),
        ("MODEL.LIBRA.SAMPLER.FLOOR_FRACTION", 1.5, "a number in"),
        ("MODEL.LIBRA.RPN.POSITIVE", "all", "'instance_balanced', 'random'"),
        ("MODEL.LIBRA.RPN.NEGATIVE", "all", "'iou_balanced', 'random'"),
        ("MODEL.LIBRA.RPN.NORMALIZER", "batch", "'sampled', 'fixed'"),
        ("MODEL.LIBRA.RPN.NEG_POS_UB", float("nan"), "a finite number"),
        ("MODEL.LIBRA.BALANCED_L1.ALPHA", 0.0, "a finite number above 0"),
        ("MODEL.LIBRA.BALANCED_L1.BETA", float("inf"), "a finite number above 0"),
        ("MODEL.LIBRA.BALANCED_L1.GAMMA", 41.0, "at most 80 times ALPHA, 40"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn", "'build_resnet_fpn_backbone'"),
        ("MODEL.LIBRA.BALANCED_L1.VARIANT", "mmdetection", "'paper', 'mmdet'"),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "nothing to balance"),
        ("MODEL.ROI_HEADS.NAME", "LibraROIHead", "'LibraCascadeROIHeads', 'LibraROIHeads'"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "ROI_HEADS.NAME: LibraROIHeads"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "rotated boxes"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "balanced_l1", "'smooth_l1', 'giou'"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "l1", "'smooth_l1', 'giou', .*'balanced_l1'"),
        ("MODEL.ROI_HEADS.IOU_LABELS", [1, 1], "expected a 0"),
    ],
)
def test_wrong_values_are_named_when_the_model_is_built(key, value, message):
    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", key, value)
    with pytest.raises(ValueError, match=message) as error:
        build_model(cfg)
    named = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE" if value == "StandardROIHeads" else key
    assert str(error.value).startswith(named)


def test_retinanet_of_detectron2_cannot_balance_its_loss():
    cfg = small_cfg("libra_retinanet_R_50_FPN_1x.yaml", "MODEL.META_ARCHITECTURE", "RetinaNet")
    cfg.MODEL.LIBRA.BFP.BOTTOM_UP, cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME, "build_bfp_backbone"
    with pytest.raises(ValueError, match=r"^MODEL.RETINANET.BBOX_REG_LOSS_TYPE.*LibraRetinaNet"):
        build_model(cfg)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfp_works_in_detectron2s_own_detectors(architecture):
    cfg = detectron2_cfg(architecture, folder="")
    cfg.MODEL.LIBRA.BFP.BOTTOM_UP, cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME, "build_bfp_backbone"
    torch.manual_seed(0)
    model = build_model(cfg).train()
    assert isinstance(model.backbone, BalancedFeaturePyramid)
    with EventStorage():
        sum(model(batch(masks="mask" in architecture)).values()).backward()
    assert model.backbone.refine.conv_out.weight.grad.abs().sum() > 0


def test_bfp_can_be_switched_off():
    model = build_model(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.LIBRA.BFP.ENABLED", False))
    assert not isinstance(model.backbone, BalancedFeaturePyramid)


def test_ohem_refuses_a_loss_that_has_no_value_of_each_box():
    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.LIBRA.SAMPLER.NAME", "OHEMSampler")
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "giou"
    with pytest.raises(ValueError, match=r"^MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE: .*'balanced_l1', 'smooth_l1'"):
        build_model(cfg)


def test_ones_own_heads_may_have_their_own_loss():
    @ROI_HEADS_REGISTRY.register()
    class OwnHeads(StandardROIHeads):
        @classmethod
        def from_config(cls, cfg, input_shape):
            assert cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "alpha_iou"
            return super().from_config(cfg, input_shape)

    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.ROI_HEADS.NAME", "OwnHeads")
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "alpha_iou"
    assert type(build_model(cfg).roi_heads) is OwnHeads


def test_a_key_that_another_project_has_added_keeps_its_default():
    cfg = get_detectron2_cfg()
    cfg.SOLVER.OPTIMIZER = "LION"
    libra_d2.add_libra_config(cfg)
    assert cfg.SOLVER.OPTIMIZER == "LION"


def test_adding_the_config_twice_or_to_a_frozen_one_changes_nothing():
    cfg = libra_d2.get_cfg()
    cfg.MODEL.LIBRA.SAMPLER.NUM_BINS = 7
    cfg.freeze()
    libra_d2.add_libra_config(cfg)
    assert cfg.MODEL.LIBRA.SAMPLER.NUM_BINS == 7


def test_fast_rcnn_trains_on_given_proposals():
    torch.manual_seed(0)
    model = build_model(small_cfg("libra_fast_rcnn_R_50_FPN_1x.yaml")).train()
    inputs = batch(2)
    for n, one in enumerate(inputs):
        boxes = Boxes(random_boxes(30 if n == 0 else 0, seed=n))
        one["proposals"] = Instances((64, 96), proposal_boxes=boxes, objectness_logits=torch.zeros(len(boxes)))
    with EventStorage():
        losses = model(inputs)
    assert losses.keys() == {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
