"""The map between MMDetection's names and Detectron2's: complete, and exact in both directions."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import libra_d2
from libra_d2.mmdet.names import Architecture, CheckpointError, to_detectron2, to_mmdet
from tests.mmdet.compact import compact

CONFIGS = Path(libra_d2.__file__).parents[1] / "configs" / "mmdet_compat"
BACKBONES = {"r50": (50, 1), "r101": (101, 1), "x101": (101, 64)}
ARCHITECTURES = {
    f"{meta}-{backbone}-{refine}-{classes}": Architecture(meta, depth, groups, refine, classes)
    for meta in ("faster_rcnn", "retinanet")
    for (backbone, (depth, groups)), refine, classes in [
        *itertools.product(BACKBONES.items(), ["non_local"], [80]),
        *itertools.product([("r50", (50, 1))], ["conv", "none"], [80]),
        (("r50", (50, 1)), "non_local", 1),
    ]
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_round_trips_are_exact(architecture):
    theirs = compact(architecture)
    recognised, ours = to_detectron2(theirs)
    again, back = to_mmdet(ours)
    assert recognised == again == architecture
    back = {name: tensor for name, tensor in back.items() if not name.endswith("num_batches_tracked")}
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_every_weight_of_the_model_is_filled(architecture):
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(CONFIGS / architecture.config))
    cfg.merge_from_list(["MODEL.DEVICE", "meta", *architecture.opts])
    with torch.device("meta"):
        model = build_model(cfg)
    assert shapes(to_detectron2(compact(architecture))[1]) == shapes(model.state_dict())


@pytest.mark.parametrize("refine", ["non_local", "conv", "none"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("meta", ["faster_rcnn", "retinanet"])
def test_names_and_shapes_are_those_of_mmdetection(mmdet, meta, backbone, refine):
    architecture = Architecture(meta, *BACKBONES[backbone], refine)
    theirs = mmdet("facts")["names"][f"{architecture.mmdet_config} {refine}"]
    counters = {name for name in theirs if name.endswith("num_batches_tracked")}
    assert shapes(compact(architecture)) == {name: tuple(s) for name, s in theirs.items() if name not in counters}
    back = to_mmdet(compact(architecture, side=1))[1]
    assert back.keys() == theirs.keys()


def test_anchors_are_sorted_by_size_then_ratio():
    architecture = Architecture("retinanet", num_classes=2)
    theirs = compact(architecture)
    # the number of an anchor, ratio * 3 + size, is in its every row
    anchor = torch.arange(9.0)
    theirs["bbox_head.retina_cls.bias"] = anchor.repeat_interleave(2)
    theirs["bbox_head.retina_reg.bias"] = anchor.repeat_interleave(4)
    ours = to_detectron2(theirs)[1]
    expected = torch.tensor([0.0, 3, 6, 1, 4, 7, 2, 5, 8])
    torch.testing.assert_close(ours["head.cls_score.bias"], expected.repeat_interleave(2))
    torch.testing.assert_close(ours["head.bbox_pred.bias"], expected.repeat_interleave(4))


def changed(architecture, side=0, **changes):
    """Compact weights; a change to None removes one."""
    tensors = compact(architecture, side) | {k: v for k, v in changes.items() if v is not None}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name, tensor) is not None}


FASTER, RETINA = Architecture("faster_rcnn"), Architecture("retinanet")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "expected the weights of a Libra Faster R-CNN or .*, got no weights"),
        ({"a.weight": torch.zeros(1)}, "got a.weight"),
        (changed(FASTER) | changed(RETINA), "expected the weights of a Libra Faster R-CNN or"),
        (changed(FASTER, **{"mask_head.x": torch.zeros(1)}), "got unknown ones: mask_head.x; a model with other parts"),
        (changed(FASTER, **{"lost.num_batches_tracked": torch.zeros(1)}), "unknown ones: lost.num_batches_tracked"),
        (changed(FASTER, **{"neck.1.refine.g.conv.bias": None}), "some are missing: neck.1.refine.g.conv.bias"),
        (
            changed(FASTER, **{"rpn_head.rpn_cls.bias": torch.zeros(9)}),
            r"rpn_head.rpn_cls.bias: expected the shape \[3\] .* got \[9\]",
        ),
        (
            changed(FASTER, **{"roi_head.bbox_head.fc_reg.bias": torch.zeros(324)}),
            r"fc_reg.bias: expected the shape \[320\] .* with 80 classes, got \[324\]",
        ),
        (
            changed(RETINA, **{"bbox_head.retina_cls.bias": torch.zeros(9 * 3)}),
            r"retina_cls.weight: expected the shape \[27, 256, 3, 3\] .* with 3 classes, got \[720, 256, 3, 3\]",
        ),
        (
            {name.removeprefix("roi_head."): tensor for name, tensor in changed(FASTER).items()},
            "expected weights of MMDetection 2.0 or later, got 1.x .*a pixel more",
        ),
        (
            {name.replace("neck.0", "neck"): t for name, t in changed(FASTER).items() if "refine" not in name},
            "expected a Libra model, .* got one with an FPN alone",
        ),
    ],
)
def test_refusals(tensors, message):
    with pytest.raises(CheckpointError, match=message):
        to_detectron2(tensors)


@pytest.mark.parametrize("architecture", [FASTER, RETINA], ids=["faster_rcnn", "retinanet"])
def test_weights_that_no_one_knows_are_counted(architecture):
    extra = {f"x{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match="x0, x1, x2, x3 and 5 more"):
        to_detectron2(compact(architecture) | extra)


@pytest.mark.parametrize("meta", ["faster_rcnn", "retinanet"])
def test_gates_other_than_one_cannot_go_back(meta):
    ours = compact(Architecture(meta), side=1)
    with pytest.raises(CheckpointError, match=r"backbone.gate: expected no gate, or 1, got 0.25"):
        to_mmdet(ours | {"backbone.gate": torch.tensor(0.25)})
    with_gate, plain = to_mmdet(ours | {"backbone.gate": torch.tensor(1.0)}), to_mmdet(ours)
    assert with_gate[0] == plain[0]
    assert with_gate[1].keys() == plain[1].keys()


def test_trainable_normalisation_of_detectron2_goes_back():
    ours = compact(FASTER, side=1)
    counters = {f"{name}.norm.num_batches_tracked": torch.tensor(5) for name in ("backbone.bottom_up.bottom_up.stem",)}
    assert to_mmdet(ours | counters)[0] == FASTER


def test_plain_detectron2_models_cannot_go_back():
    ours = {name.replace("backbone.bottom_up.", "backbone."): t for name, t in compact(FASTER, side=1).items()}
    with pytest.raises(CheckpointError, match="unknown ones: backbone"):
        to_mmdet(ours)


def test_opts_say_what_the_config_file_does_not():
    assert dataclasses.replace(FASTER, num_classes=3).opts == ["MODEL.ROI_HEADS.NUM_CLASSES", "3"]
    assert dataclasses.replace(RETINA, refine="conv", num_classes=3).opts == [
        "MODEL.RETINANET.NUM_CLASSES",
        "3",
        "MODEL.LIBRA.BFP.REFINE_TYPE",
        "conv",
    ]
