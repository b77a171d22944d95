import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import EventStorage

from tests.modeling.builders import CountWaits, objects, random_boxes, small_cfg

SIZE = (64, 96)
SHAPES = {f"p{level}": ShapeSpec(channels=16, stride=2**level) for level in range(2, 7)}
CONFIG = "libra_faster_rcnn_R_50_FPN_1x.yaml"


def libra_rpn(*opts):
    torch.manual_seed(0)
    return build_proposal_generator(small_cfg(CONFIG, *opts), SHAPES).train()


def detectron2_rpn(*opts):
    torch.manual_seed(0)
    return build_proposal_generator(small_cfg(CONFIG, "MODEL.PROPOSAL_GENERATOR.NAME", "RPN", *opts), SHAPES).train()


def scene(num_images=3):
    """Shared anchors and targets; the second image has no objects."""
    anchors = [Boxes(random_boxes(count, SIZE, count)) for count in (300, 40)]
    targets = [objects(SIZE) if n == 1 else objects(SIZE, random_boxes(4, SIZE, 50 + n)) for n in range(num_images)]
    return anchors, targets


@pytest.mark.parametrize("boundary", [-1, 0])
def test_labels_what_detectron2_labels_when_everything_is_sampled(boundary):
    opts = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000, "MODEL.RPN.POSITIVE_FRACTION", 1.0]
    opts += ["MODEL.RPN.BOUNDARY_THRESH", boundary, "MODEL.LIBRA.RPN.NEG_POS_UB", -1.0]
    anchors, targets = scene()
    labels, boxes = libra_rpn(*opts).label_and_sample_anchors(anchors, targets)
    expected_labels, expected_boxes = detectron2_rpn(*opts).label_and_sample_anchors(anchors, targets)
    for n in range(3):
        assert torch.equal(labels[n], expected_labels[n])
        positive = labels[n] == 1
        assert torch.equal(boxes[n][positive], expected_boxes[n][positive])
    assert any((label == 1).any() for label in labels)


@pytest.mark.parametrize("neg_pos_ub", [0.0, 2.0, 5.0])
def test_no_more_negatives_for_each_positive_than_allowed(neg_pos_ub):
    anchors, targets = scene()
    labels, _ = libra_rpn("MODEL.LIBRA.RPN.NEG_POS_UB", neg_pos_ub).label_and_sample_anchors(anchors, targets)
    for label in labels:
        assert (label == 0).sum() == int(neg_pos_ub * max(1, int((label == 1).sum())))


def test_draws_another_sample_each_time_and_no_more_than_asked():
    anchors, targets = scene()
    rpn = libra_rpn("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64, "MODEL.LIBRA.RPN.NEG_POS_UB", -1.0)
    torch.manual_seed(3)
    first, _ = rpn.label_and_sample_anchors(anchors, targets)
    second, _ = rpn.label_and_sample_anchors(anchors, targets)
    assert all((label >= 0).sum() == 64 for label in first)
    assert not torch.equal(first[0], second[0])


def test_libra_rpn_of_table_3_prefers_overlapping_negatives():
    anchors, targets = scene(1)
    shares = {}
    for negative in ("iou_balanced", "random"):
        rpn = libra_rpn("MODEL.LIBRA.RPN.NEGATIVE", negative, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 48)
        labels, _ = rpn.label_and_sample_anchors(anchors, targets)
        from libra_d2.modeling.matching import match_to_instances

        iou = match_to_instances(Boxes.cat(anchors), targets, rpn.anchor_matcher).iou[0]
        shares[negative] = (iou[labels[0] == 0] >= 0.2).float().mean()
    assert shares["iou_balanced"] > 1.3 * shares["random"]


def test_libra_rpn_of_table_3_gives_every_object_as_many_positives():
    large, small = [4.0, 6.0, 40.0, 44.0], [60.0, 20.0, 80.0, 40.0]
    anchors = [Boxes(torch.tensor([large] * 80 + [small] * 10 + [[0.0, 50.0, 8.0, 60.0]] * 400))]
    targets = [objects(SIZE), objects(SIZE, [large, small])]
    share = {}
    for positive in ("instance_balanced", "random"):
        rpn = libra_rpn("MODEL.LIBRA.RPN.POSITIVE", positive, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32)
        labels, _ = rpn.label_and_sample_anchors(anchors, targets)
        share[positive] = [int((part == 1).sum()) for part in (labels[1][:80], labels[1][80:90])]
    assert share["instance_balanced"] == [8, 8]
    assert share["random"][1] < 6


@pytest.mark.parametrize("num_images", [1, 6])
def test_never_waits_for_the_gpu(num_images):
    rpn = libra_rpn()
    anchors, targets = scene(num_images)
    with CountWaits() as count:
        rpn.label_and_sample_anchors(anchors, targets)
    assert count.waits == []


@pytest.mark.parametrize("normalizer", ["sampled", "fixed"])
def test_normalizer(normalizer):
    rpn = libra_rpn("MODEL.LIBRA.RPN.NORMALIZER", normalizer)
    features = {name: torch.randn(2, 16, SIZE[0] // s.stride, SIZE[1] // s.stride) for name, s in SHAPES.items()}
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2)
    labels = []

    def keep_labels(anchors, targets, original=rpn.label_and_sample_anchors):
        labels[:] = original(anchors, targets)
        return labels

    rpn.label_and_sample_anchors = keep_labels
    with EventStorage():
        torch.manual_seed(0)
        _, ours = rpn(images, features, [objects(SIZE, [[4, 6, 40, 44]]), objects(SIZE)])
    sampled = sum(int((label >= 0).sum()) for label in labels[0])
    assert 0 < sampled < 2 * 256

    rpn.label_and_sample_anchors = lambda anchors, targets: labels
    rpn.losses = lambda *args: RPN.losses(rpn, *args)
    with EventStorage():
        _, theirs = rpn(images, features, [None, None])
    factor = 2 * 256 / sampled if normalizer == "sampled" else 1.0
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name] * factor)


def test_image_without_any_anchor_sampled_gives_a_finite_loss():
    rpn = libra_rpn("MODEL.LIBRA.RPN.NEG_POS_UB", 0.0)
    features = {name: torch.randn(1, 16, 2, 2) for name in SHAPES}
    with EventStorage():
        _, losses = rpn(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), features, [objects(SIZE)])
    assert all(loss == 0 for loss in losses.values())
