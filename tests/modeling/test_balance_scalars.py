"""The scalars that show the balance: what they say of a known draw, and that they appear in every 20th step alone."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from libra_d2.losses import balanced_l1_loss
from libra_d2.modeling import BalancedFeaturePyramid, balance_scalars
from tests.modeling.backbone.test_bfp import SIZES, Given, features_of
from tests.modeling.builders import batch, small_cfg, small_config_name


def latest(storage):
    return {name.removeprefix("balance/"): value for name, (value, _) in storage.latest().items() if "balance/" in name}


def test_a_known_draw():
    """Two images. Of the first: one positive of object 0, two of object 1, and of six negatives four."""
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, -1], dtype=torch.int8)
    ious = torch.tensor([0.6, 0.7, 0.8, 0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.2, 0.0])
    matched_idx = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    offsets = torch.tensor([0, 9, 11])
    indices = torch.tensor([[0, 1, 2, 3, 4, 5, 8], [0, -1, -1, -1, -1, -1, -1]])
    sample = indices, torch.tensor([3, 0]), torch.tensor([4, 1])
    with EventStorage() as storage:
        options = {"num_bins": 2, "bin_upper": 0.5, "floor_thr": -1.0}
        balance_scalars.log_sampling(storage, labels, ious, matched_idx, offsets, sample, options)
    assert latest(storage) == {
        "positives/fewest": 1,
        "positives/most": 2,
        "negatives/bin0/candidates": 2.0,
        "negatives/bin0/drawn": 2.0,
        "negatives/bin0/wanted": 1.0,
        "negatives/bin0/refilled": 1.0,
        "negatives/bin1/candidates": 1.5,
        "negatives/bin1/drawn": 0.5,
        "negatives/bin1/wanted": 0.5,
        "negatives/bin1/refilled": 0.0,
    }
    histograms = {h["tag"]: (h["num"], h["min"], h["max"], sum(h["bucket_counts"])) for h in storage._histograms}
    assert histograms == {
        "balance/positives/of_object": (2, 1.0, 2.0, 2),
        "balance/negatives/iou_candidates": (7, 0.0, 0.5, 7),
        "balance/negatives/iou_drawn": (5, 0.0, 0.5, 5),
    }


def test_nothing_drawn_is_said_as_such():
    nothing = torch.zeros(0, dtype=torch.int64)
    sample = torch.full((1, 4), -1), torch.tensor([0]), torch.tensor([0])
    with EventStorage() as storage:
        balance_scalars.log_sampling(
            storage, nothing.to(torch.int8), nothing.float(), nothing, torch.tensor([0, 0]), sample, {}
        )
        balance_scalars.log_box_loss(storage, balanced_l1_loss, torch.zeros(0, 4), torch.zeros(0, 4))
    assert set(latest(storage).values()) == {0.0}


def test_the_accurate_share_of_the_box_losss_gradient():
    """Balanced L1 has the gradient 0.5 ln(19.1 x + 1) at an error x below 1, and 1.5 above."""
    pred, target = torch.tensor([[0.5, 0.0, 3.0, 0.0]]), torch.zeros(1, 4)
    with EventStorage() as storage:
        balance_scalars.log_box_loss(storage, balanced_l1_loss, pred, target)
    small = 0.5 * torch.log1p(torch.expm1(torch.tensor(3.0)) * 0.5).item()
    assert latest(storage)["box_gradient/accurate_share"] == pytest.approx(small / (small + 1.5))


@pytest.mark.parametrize(("size", "attended"), [(0.0, 1.0), (1e4, 1 / 54)])
def test_attention_is_even_without_features_and_at_one_position_with_huge_ones(size, attended):
    refine = BalancedFeaturePyramid(Given(SIZES)).refine
    with EventStorage(balance_scalars.PERIOD - 1) as storage:
        refine(size * features_of()["p4"])
    assert latest(storage)["pyramid/attended"] == pytest.approx(attended, rel=0.02)


def test_what_the_pyramid_adds_is_in_units_of_the_level():
    before = {"p2": torch.full((1, 2, 4, 4), 2.0), "p3": torch.full((1, 2, 2, 2), -1.0)}
    with EventStorage() as storage:
        balance_scalars.log_pyramid(storage, before, {name: level + 1 for name, level in before.items()}, None)
    assert latest(storage) == {"pyramid/added_p2": pytest.approx(0.5), "pyramid/added_p3": pytest.approx(1.0)}


@pytest.mark.parametrize("start", [0, balance_scalars.PERIOD - 1])
@pytest.mark.parametrize("architecture", ["faster_rcnn", "cascade_rcnn", "retinanet"])
def test_they_are_there_when_a_writer_writes_and_change_no_loss(architecture, start):
    losses = []
    for iteration in (start, 1):
        torch.manual_seed(0)
        config = small_config_name(architecture)
        model = build_model(small_cfg(config, "MODEL.LIBRA.BFP.INIT", "identity")).train()
        torch.manual_seed(0)
        with EventStorage(iteration) as storage:
            losses.append(model(batch()))
        names = {name.removeprefix("stage0/balance/") for name in latest(storage)}
        if iteration == balance_scalars.PERIOD - 1:
            assert {"pyramid/gate", "pyramid/attended", "pyramid/added_p6", "box_gradient/accurate_share"} <= names
            assert architecture == "retinanet" or {"positives/most", "negatives/bin2/drawn"} <= names
        else:
            assert not names
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name])
