"""What the pictures are drawn from: every negative, both ways of picking, the errors of the positives."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou

from libra_d2.modeling import BalancedSampler
from libra_d2.visualize.recorder import _Spy, record_training_boxes
from tests.modeling.builders import batch, random_boxes, small_cfg

SAMPLING = {
    "num_samples": 40,
    "positive_fraction": 0.25,
    "positive": "instance_balanced",
    "negative": "iou_balanced",
    "num_bins": 2,
    "bin_upper": 0.5,
    "floor_thr": -1.0,
    "floor_fraction": 0.0,
}


def test_it_notes_all_negatives_and_equal_numbers_of_both_picks():
    # two images: 10 positives and 10 hard among 200 negatives each
    labels = torch.cat([torch.ones(10), torch.zeros(200)]).to(torch.int8).repeat(2)
    ious = torch.cat([torch.full((10,), 0.8), torch.full((10,), 0.4), torch.full((190,), 0.1)]).repeat(2)
    spy = _Spy(SAMPLING, seed=0)
    result = spy(labels, ious, torch.zeros(420, dtype=torch.int64), torch.tensor([0, 210, 420]), None)
    noted = {name: torch.cat(values) for name, values in spy.ious.items()}
    assert len(noted["negatives"]) == 400
    assert noted["negatives"].max() == pytest.approx(0.4)
    assert len(noted["random"]) == len(noted["balanced"]) == 2 * 30
    assert (noted["balanced"] > 0.3).sum() == 20  # both images' hard ones: 15 were wanted of 10
    assert (noted["random"] > 0.3).sum() < 10  # 1.5 an image on average
    assert result[1].tolist() == [10, 10]


@pytest.fixture(scope="module")
def model_and_cfg():
    torch.manual_seed(0)
    cfg = small_cfg()
    return build_model(cfg), cfg


def test_a_run_over_batches_leaves_the_model_as_it_was(model_and_cfg):
    model, cfg = model_and_cfg
    model.eval()
    sampler = model.roi_heads.box_sampler
    record = record_training_boxes(model, [batch(2), batch(2, seed=1)], BalancedSampler(cfg).options)
    assert record.num_images == 4
    assert record.bins == pytest.approx([0, 1 / 6, 2 / 6, 0.5])
    assert len(record.random) == len(record.balanced) > 0
    assert (record.negatives < 0.5).all()
    assert record.errors.shape[1] == 4
    assert len(record.errors) > 0
    assert model.roi_heads.box_sampler is sampler
    assert not model.training


def test_errors_are_what_is_missing_to_the_ground_truth(model_and_cfg):
    """Zero weights predict no shift at all, so the errors are the wanted deltas themselves."""
    model, cfg = model_and_cfg
    predictor = model.roi_heads.box_predictor
    torch.nn.init.zeros_(predictor.bbox_pred.weight)
    torch.nn.init.zeros_(predictor.bbox_pred.bias)
    noted = []

    def note(proposals, targets):
        sampled = type(model.roi_heads).label_and_sample_proposals(model.roi_heads, proposals, targets)
        noted.extend(sampled)
        return sampled

    model.roi_heads.label_and_sample_proposals = note
    try:
        record = record_training_boxes(model, [batch(1)], BalancedSampler(cfg).options)
    finally:
        del model.roi_heads.label_and_sample_proposals
    (sampled,) = noted
    positive = sampled[sampled.gt_classes < 5]
    best = pairwise_iou(positive.proposal_boxes, Boxes(batch(1)[0]["instances"].gt_boxes.tensor)).argmax(1)
    wanted = predictor.box2box_transform.get_deltas(
        positive.proposal_boxes.tensor, batch(1)[0]["instances"].gt_boxes.tensor[best]
    )
    torch.testing.assert_close(record.errors, wanted.abs())


def test_images_without_objects_have_no_errors(model_and_cfg):
    model, cfg = model_and_cfg
    record = record_training_boxes(model, [batch(2)[1:]], BalancedSampler(cfg).options)
    assert record.errors.shape == (0, 4)
    assert len(record.negatives) > 0


def test_a_fast_rcnn_is_looked_at_with_the_proposals_of_its_file():
    cfg = small_cfg("libra_fast_rcnn_R_50_FPN_1x.yaml")
    sample = batch(1)[0]
    boxes = Boxes(random_boxes(30))
    sample["proposals"] = Instances((64, 96), proposal_boxes=boxes, objectness_logits=torch.zeros(30))
    record = record_training_boxes(build_model(cfg), [[sample]], BalancedSampler(cfg).options)
    ious = pairwise_iou(boxes, sample["instances"].gt_boxes).amax(1)
    torch.testing.assert_close(record.negatives.sort().values, ious[ious < 0.5].sort().values)


def test_a_model_without_balanced_sampling_is_refused():
    cfg = small_cfg("libra_retinanet_R_50_FPN_1x.yaml")
    with pytest.raises(
        ValueError, match="expected a model with LibraROIHeads or LibraCascadeROIHeads, got LibraRetinaNet"
    ):
        record_training_boxes(build_model(cfg), [batch(1)], SAMPLING)


def test_no_batch_is_refused(model_and_cfg):
    model, cfg = model_and_cfg
    with pytest.raises(ValueError, match="at least one batch"):
        record_training_boxes(model, [], BalancedSampler(cfg).options)
