"""Detections are compared whatever their order; each without a counterpart counts, in either list."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from libra_d2.inference.agreement import Agreement, Tolerance, compare, together

TOLERANCE = Tolerance(pixels=1.0, value=0.1, strays=0.2)
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]])


def instances(masks=False):
    found = Instances((40, 40), pred_boxes=Boxes(BOXES), scores=torch.tensor([0.9, 0.8, 0.7]))
    found.pred_classes = torch.tensor([0, 1, 0])
    if masks:
        found.pred_masks = torch.zeros(3, 1, 28, 28)
    return found


def fields(order=(0, 1, 2), masks=False):
    found = instances(masks)[torch.tensor(order, dtype=torch.int64)]
    return {name: getattr(value, "tensor", value).clone() for name, value in found.get_fields().items()}


def test_the_order_does_not_matter():
    agreement = compare(instances(), fields([1, 2, 0]), TOLERANCE)
    assert agreement == Agreement(expected=3, found=3, strays=0, pixels=0.0, value=0.0)
    assert agreement.is_within(TOLERANCE)


@pytest.mark.parametrize(
    ("name", "index", "by", "strays"),
    [
        ("pred_boxes", (0, 2), 0.5, 0),
        ("pred_boxes", (0, 2), 1.5, 2),
        ("scores", 1, 0.05, 0),
        ("scores", 1, 0.2, 2),
        ("scores", 1, float("nan"), 2),
        ("pred_classes", 2, 1, 2),
        ("pred_masks", (1, 0, 27, 3), 0.05, 0),
        ("pred_masks", (1, 0, 27, 3), 0.2, 2),
    ],
)
def test_what_is_too_far_apart_is_in_one_list_alone(name, index, by, strays):
    found = fields(masks=True)
    found[name][index] += by
    agreement = compare(instances(masks=True), found, TOLERANCE)
    assert agreement.strays == strays
    assert agreement.is_within(TOLERANCE) == (strays == 0)
    if strays == 0:
        assert (agreement.pixels if name == "pred_boxes" else agreement.value) == pytest.approx(by, abs=1e-6)


@pytest.mark.parametrize("order", [[], [0, 2]])
@pytest.mark.parametrize("masks", [False, True])
def test_what_is_missing_or_too_much_is_counted(order, masks):
    missing = 3 - len(order)
    assert compare(instances(masks), fields(order, masks), TOLERANCE).strays == missing
    fewer = instances(masks)[torch.tensor(order, dtype=torch.int64)]
    assert compare(fewer, fields(masks=masks), TOLERANCE) == Agreement(len(order), 3, missing, 0.0, 0.0)


def test_images_are_counted_together():
    one, other = Agreement(3, 4, 1, 0.5, 0.01), Agreement(5, 5, 2, 0.1, 0.02)
    assert together([one, other]) == Agreement(8, 9, 3, 0.5, 0.02)
    assert together([one, other]).is_within(TOLERANCE)
    assert not Agreement(8, 9, 4, 0.0, 0.0).is_within(TOLERANCE)
