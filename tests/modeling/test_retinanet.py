import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from libra_d2.losses import balanced_l1_loss
from tests.modeling.builders import CountWaits, batch, objects, random_boxes, small_cfg

CONFIG = "libra_retinanet_R_50_FPN_1x.yaml"
SIZE = (64, 96)


def retinanet(*opts):
    torch.manual_seed(0)
    return build_model(small_cfg(CONFIG, *opts)).train()


def scene(num_images=3):
    """Shared anchors and targets; the second image has no objects."""
    anchors = [Boxes(random_boxes(count, SIZE, count)) for count in (300, 40)]
    targets = []
    for n in range(num_images):
        boxes = random_boxes(4, SIZE, 50 + n)
        targets.append(objects(SIZE) if n == 1 else objects(SIZE, boxes, [0, 1, 2, 3]))
    return anchors, targets


def test_labels_what_detectron2_labels():
    model = retinanet()
    anchors, targets = scene()
    labels, boxes = model.label_anchors(anchors, targets)
    expected_labels, expected_boxes = RetinaNet.label_anchors(model, anchors, targets)
    for n in range(3):
        assert torch.equal(labels[n], expected_labels[n])
        positive = (labels[n] >= 0) & (labels[n] < 5)
        assert torch.equal(boxes[n][positive], expected_boxes[n][positive])


@pytest.mark.parametrize("num_images", [1, 6])
def test_never_waits_for_the_gpu(num_images):
    model = retinanet()
    anchors, targets = scene(num_images)
    with CountWaits() as count:
        model.label_anchors(anchors, targets)
    assert count.waits == []


def test_box_loss_is_balanced_l1_over_the_normaliser_that_moves_once_a_step():
    model = retinanet()
    anchors, targets = scene()
    labels, boxes = model.label_anchors(anchors, targets)
    logits = [torch.randn(3, len(a), 5) for a in anchors]
    deltas = [torch.randn(3, len(a), 4) for a in anchors]
    with EventStorage():
        losses = model.losses(anchors, logits, labels, deltas, boxes)

    total, positives = 0.0, 0
    for n in range(3):
        for row, anchor in enumerate(torch.cat([a.tensor for a in anchors])):
            if 0 <= labels[n][row] < 5:
                target = model.box2box_transform.get_deltas(anchor[None], boxes[n][row][None])
                pred = torch.cat([d[n] for d in deltas])[row][None]
                total += balanced_l1_loss(pred, target, alpha=0.5, gamma=1.5, beta=0.11, reduction="sum")
                positives += 1
    normalizer = 0.9 * 100 + 0.1 * positives
    assert positives > 0
    assert model.loss_normalizer == pytest.approx(normalizer)
    torch.testing.assert_close(losses["loss_box_reg"], total / normalizer)


def test_detectron2s_own_losses_stay_available():
    model = retinanet("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "giou")
    assert model.box_loss is None
    with EventStorage():
        losses = model(batch())
    assert torch.isfinite(losses["loss_box_reg"])


def test_clips_and_drops_empty_boxes_before_nms_when_asked():
    # Two boxes that differ only outside the image: Detectron2 keeps both, clipped they are the same. One lies outside.
    anchors = [Boxes(torch.tensor([[80.0, 10, 112, 50], [80, 10, 200, 50], [100, 10, 120, 50]]))]
    scores = [torch.tensor([[0.9], [0.8], [0.7]])]
    deltas = [torch.zeros(3, 4)]
    kept = {}
    for clip in (False, True):
        model = retinanet("MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS", clip).eval()
        kept[clip] = model.inference_single_image(anchors, scores, deltas, SIZE)
        assert isinstance(kept[clip], Instances)
    assert len(kept[False]) == 3
    assert kept[True].pred_boxes.tensor.tolist() == [[80, 10, 96, 50]]


def test_relu_before_p7_is_a_key():
    torch.manual_seed(0)
    c5 = torch.randn(1, 128, 4, 4)
    with_relu, without = (retinanet("MODEL.LIBRA.RETINANET.RELU_BEFORE_P7", on) for on in (True, False))
    block = without.backbone.bottom_up.top_block
    p6, p7 = block(c5)
    torch.testing.assert_close(p7, block.p7(block.p6(c5)))
    # the same names, so either loads the other's checkpoint
    assert with_relu.state_dict().keys() == without.state_dict().keys()


def test_relu_before_p7_needs_a_p7():
    opts = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6"]]
    with pytest.raises(
        ValueError, match="RELU_BEFORE_P7: expected a backbone with LastLevelP6P7.*got LastLevelMaxPool"
    ):
        retinanet("MODEL.LIBRA.RETINANET.RELU_BEFORE_P7", False, *opts, "MODEL.ANCHOR_GENERATOR.SIZES", [[32]])
