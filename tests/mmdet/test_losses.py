"""Where chance has no part, converted weights train here as they train in MMDetection."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from libra_d2.losses import prime_sample_weights
from libra_d2.losses.class_losses import seesaw
from libra_d2.modeling import BalancedFeaturePyramid
from tests.mmdet.converted import converted
from tests.modeling.builders import Pyramid, small_cfg

# every anchor and every proposal is sampled
EVERYTHING = [
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6, "MODEL.LIBRA.RPN.NEG_POS_UB", -1.0),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 10**6),
]
NAMES = {"loss_box_reg": "loss_bbox", "loss_rpn_loc": "loss_rpn_bbox"}


def losses_of(model, oracle):
    size = tuple(oracle["image"].shape[1:])
    objects = Instances(size, gt_boxes=Boxes(oracle["gt_boxes"]), gt_classes=oracle["gt_classes"])
    with EventStorage():
        losses = model.train()([{"image": oracle["image"], "instances": objects}])
    return {NAMES.get(name, name): loss for name, loss in losses.items()}


def replace_proposals(model, theirs):
    """Lets the RoI heads see MMDetection's proposals, once they turn out to be the model's own up to rounding."""

    def replace(module, inputs, outputs):
        (ours,), _ = outputs
        assert len(ours) == len(theirs)
        distance = (ours.proposal_boxes.tensor[:, None] - theirs).abs().amax(-1)
        assert torch.maximum(distance.amin(0), distance.amin(1)).max() < 1e-3
        ours.proposal_boxes = Boxes(theirs)

    model.proposal_generator.register_forward_hook(replace)


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_losses_and_their_gradients_are_those_of_mmdetection(mmdet, name):
    oracle = mmdet(name)
    model = converted(oracle, EVERYTHING)
    factor = 1.0
    if name == "faster_rcnn":
        replace_proposals(model, oracle["proposals"])
    losses = losses_of(model, oracle)
    assert losses.keys() == oracle["losses"].keys()
    if name == "retinanet":
        # Detectron2 divides by a moving average that starts at 100, MMDetection by the number itself
        num_positive = round((model.loss_normalizer - 0.9 * 100) / 0.1)
        assert 10 < num_positive < 1000
        factor = model.loss_normalizer / num_positive
    refine = model.backbone.refine.g.weight
    for name, loss in losses.items():
        expected = oracle["losses"][name]
        assert expected > 0
        torch.testing.assert_close(loss * factor, expected, rtol=1e-5, atol=0, check_dtype=False)
        (gradient,) = torch.autograd.grad(loss * factor, refine, retain_graph=True)
        expected = oracle["gradients"][name].reshape(refine.shape)
        assert expected.dtype == torch.float64
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_published_loss_of_libra_retinanet_is_another(mmdet):
    """The paper's balanced L1 with beta 0.11 is not what MMDetection trains with."""
    oracle = mmdet("retinanet")
    theirs = losses_of(converted(oracle), oracle)["loss_bbox"]
    paper = losses_of(converted(oracle, ["MODEL.LIBRA.BALANCED_L1.VARIANT", "paper"]), oracle)["loss_bbox"]
    assert paper < 0.97 * theirs


@pytest.mark.parametrize("refine", ["none", "conv", "non_local"])
def test_pyramids_are_those_of_mmdetection(mmdet, refine):
    """On levels whose sizes divide nothing: windows of the pooling overlap, nearest neighbours repeat unevenly."""
    oracle = mmdet("facts")["pyramids"]
    features = {f"p{level}": tensor for level, tensor in enumerate(oracle["inputs"], start=2)}
    bottom_up = Pyramid({name: tuple(tensor.shape[2:]) for name, tensor in features.items()}, channels=8)
    pyramid = BalancedFeaturePyramid(bottom_up, refine_type=refine)
    weights = {
        name.replace(".conv.", ".") if refine == "non_local" else name: w
        for name, w in oracle[refine]["weights"].items()
    }
    ours = {name: tensor for name, tensor in pyramid.state_dict().items() if name.startswith("refine.")}
    assert weights.keys() == ours.keys()
    pyramid.load_state_dict(weights, strict=False)
    bottom_up.forward = lambda images: features
    with torch.no_grad():
        outputs = pyramid(torch.zeros(2, 3, 1, 1))
    for level, theirs in zip(outputs.values(), oracle[refine]["outputs"], strict=True):
        torch.testing.assert_close(level, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 0.0), (1.0, 0.2)])
def test_prime_samples_weigh_what_they_weigh_in_mmdetection(mmdet, gamma, beta):
    oracle = mmdet("facts")["prime_samples"]
    losses = F.cross_entropy(oracle["scores"][:40], oracle["classes"][:40], reduction="none")
    weights = prime_sample_weights(
        oracle["ious"], oracle["objects"], oracle["classes"][:40], losses, gamma=gamma, beta=beta
    )
    torch.testing.assert_close(weights, oracle[f"{gamma} {beta}"][:40])


def test_the_seesaw_loss_of_objects_is_that_of_mmdetection(mmdet):
    """It classifies objects without the background, which no score means here."""
    oracle = mmdet("facts")["seesaw"]
    loss = seesaw(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.ROI_HEADS.NUM_CLASSES", "4")).eval()
    loss.counts.copy_(oracle["counts"])
    scores = F.pad(oracle["scores"], (0, 1), value=-1e4)
    torch.testing.assert_close(loss(scores, oracle["classes"]), oracle["loss"])
