"""Converted weights detect here what they detect in MMDetection, given the same input tensor."""

import pytest
import torch

from tests.mmdet.converted import agree, converted, detect


@pytest.fixture(params=["faster_rcnn", "retinanet"])
def oracle(request, mmdet):
    return mmdet(request.param)


def test_the_oracle_detects_something(oracle):
    """Otherwise the next test would compare nothing with nothing."""
    assert len(oracle["boxes"]) == 100
    assert oracle["scores"].unique().numel() > 50
    assert oracle["labels"].unique().numel() > 5
    height, width = oracle["image"].shape[1:]
    x2, y2 = oracle["boxes"][:, 2:].unbind(1)
    assert (x2 == width).any(), "no box is clipped"
    assert (x2 < width).any()
    assert y2.max() <= height


def test_features_and_detections_are_those_of_mmdetection(oracle):
    model = converted(oracle)
    with torch.no_grad():
        images = model.preprocess_image([{"image": oracle["image"]}])
        features = model.backbone(images.tensor)
    for ours, theirs in zip(features.values(), oracle["features"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert agree(detect(model, oracle["image"]), oracle)


@pytest.mark.parametrize(
    ("name", "opts"),
    [
        ("faster_rcnn", ["MODEL.RESNETS.STRIDE_IN_1X1", True]),
        ("faster_rcnn", ["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]]),
        ("faster_rcnn", ["MODEL.LIBRA.BFP.REFINE_LEVEL", "p3"]),
        ("retinanet", ["MODEL.LIBRA.RETINANET.RELU_BEFORE_P7", True]),
        ("retinanet", ["MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS", False]),
    ],
    ids=lambda p: p if isinstance(p, str) else p[0].rpartition(".")[2],
)
def test_each_key_of_the_recipe_is_needed(mmdet, name, opts):
    oracle = mmdet(name)
    assert not agree(detect(converted(oracle, opts), oracle["image"]), oracle)
