import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_roi_heads
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from libra_d2.modeling import BOX_SAMPLER_REGISTRY
from tests.modeling.builders import CountWaits, objects, random_boxes, small_cfg

SIZE = (64, 96)
SHAPES = {f"p{level}": ShapeSpec(channels=16, stride=2**level) for level in range(2, 7)}
GT = [[4, 6, 40, 44], [30, 20, 80, 60], [50, 4, 62, 16]]


def heads(*opts, config="libra_faster_rcnn_R_50_FPN_1x.yaml"):
    torch.manual_seed(0)
    return build_roi_heads(small_cfg(config, *opts), SHAPES).train()


def proposals(boxes) -> Instances:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))


def scene(num_images=2, count=200):
    """Proposals, a third of them near an object, and targets; every second image is without objects."""
    given, targets = [], []
    for n in range(num_images):
        near = torch.tensor(GT, dtype=torch.float32).repeat(count // 9, 1)
        near = near + torch.randn(near.shape, generator=torch.Generator().manual_seed(n)) * 4
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        given.append(proposals(torch.cat([random_boxes(count - len(near), SIZE, n), near])))
        targets.append(objects(SIZE, GT, [0, 1, 2]) if n % 2 == 0 else objects(SIZE))
    return given, targets


def features(num_images=2):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(num_images, 16, SIZE[0] // spec.stride, max(SIZE[1] // spec.stride, 1), generator=generator)
        for name, spec in SHAPES.items()
    }


def sample(roi_heads, given, targets):
    with EventStorage() as storage:
        return roi_heads.label_and_sample_proposals(given, targets), storage


def as_rows(instances: Instances) -> torch.Tensor:
    """One row a sampled proposal: its box, its class and the box it is to become, in an order of their own."""
    columns = [instances.proposal_boxes.tensor, instances.gt_classes[:, None].float()]
    if instances.has("gt_boxes"):
        columns.append(instances.gt_boxes.tensor)
    rows = torch.cat(columns, dim=1).numpy()
    return torch.from_numpy(rows[np.lexsort(rows.T)])


def test_labels_what_detectron2_labels_when_everything_is_sampled():
    opts = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0)
    given, targets = scene(3)
    ours, _ = sample(heads(*opts), given, targets)
    theirs_class = ROI_HEADS_REGISTRY.get("StandardROIHeads")
    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *opts, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1")
    theirs, _ = sample(theirs_class(cfg, SHAPES), given, targets)
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine.get_fields()) == set(other.get_fields())
        torch.testing.assert_close(as_rows(mine), as_rows(other), rtol=0, atol=0)


def test_quotas_and_logged_counts_are_detectron2s():
    given, targets = scene(1)
    ours, storage = sample(heads("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64), given, targets)
    classes = ours[0].gt_classes
    assert len(classes) == 64
    assert (classes < 5).sum() == 16
    assert storage.latest()["roi_head/num_fg_samples"][0] == 16
    assert storage.latest()["roi_head/num_bg_samples"][0] == 48


def test_negatives_are_spread_over_iou_and_positives_over_objects():
    def iou_of_negatives(*opts):
        drawn = []
        for seed in range(5):
            torch.manual_seed(seed)
            ours, _ = sample(roi_heads, given, targets)
            negative = ours[0].gt_classes == 5
            boxes = ours[0].proposal_boxes[negative]
            drawn.append(pairwise_iou(boxes, targets[0].gt_boxes).amax(1))
        return torch.cat(drawn)

    given = [proposals(torch.cat([random_boxes(900, SIZE, 3), torch.tensor(GT).repeat(10, 1) * 0.8]))]
    targets = [objects(SIZE, GT, [0, 1, 2])]
    share = {}
    for rule in ("iou_balanced", "random"):
        roi_heads = heads("MODEL.LIBRA.SAMPLER.NEGATIVE", rule, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 96)
        share[rule] = (iou_of_negatives() > 1 / 3).float().mean()
    assert share["iou_balanced"] > 1.5 * share["random"]


def test_every_object_gets_the_same_number_of_positives():
    crowd = torch.tensor(GT[0], dtype=torch.float32).repeat(60, 1)
    few = torch.tensor(GT[1], dtype=torch.float32).repeat(6, 1)
    given, targets = [proposals(torch.cat([crowd, few, random_boxes(100, SIZE)]))], [objects(SIZE, GT, [0, 1, 2])]
    roi_heads = heads("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64)
    counts = torch.bincount(sample(roi_heads, given, targets)[0][0].gt_classes, minlength=6)
    # 16 positives; objects 1 and 2 have 7 (6 proposals and themselves) and 1 (itself) or what random boxes add
    assert counts[:5].sum() == 16
    assert counts[1] >= 6
    assert counts[0] - counts[1] <= 2


def test_polygon_masks_and_other_fields_follow_their_object():
    given, _ = scene(2)
    targets = [objects(SIZE, GT, [0, 1, 2], masks=True), objects(SIZE, masks=True)]
    targets[0].gt_tag = torch.tensor([10, 11, 12])
    ours, _ = sample(heads(), given, targets)
    foreground = ours[0].gt_classes < 5
    assert foreground.any()
    for box, tag, polygons, is_foreground in zip(
        ours[0].gt_boxes, ours[0].gt_tag, ours[0].gt_masks.polygons, foreground, strict=True
    ):
        assert polygons[0][0] == box[0]
        assert not is_foreground or tag - 10 == GT.index([int(v) for v in box])
    assert not ours[1].has("gt_masks")


@pytest.mark.parametrize("config", ["libra_faster_rcnn_R_50_FPN_1x.yaml", "libra_cascade_rcnn_R_50_FPN_1x.yaml"])
@pytest.mark.parametrize("sampler", ["BalancedSampler", "OHEMSampler"])
@pytest.mark.parametrize("append_gt", [True, False])
@pytest.mark.parametrize(
    "boxes_and_gt",
    [
        ([[], []], [[], []]),
        ([[], GT], [GT, []]),
        ([GT, []], [GT, GT]),
        ([[[0, 0, 3, 3]], [[60, 50, 90, 60]]], [GT, GT[2:]]),
    ],
    ids=["nothing", "no proposals or no objects", "only positives or no proposals", "no positives"],
)
def test_empty_images_are_normal(config, sampler, append_gt, boxes_and_gt):
    roi_heads = heads(
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", append_gt, "MODEL.LIBRA.SAMPLER.NAME", sampler, config=config
    )
    given = [proposals(boxes) for boxes in boxes_and_gt[0]]
    targets = [objects(SIZE, boxes) for boxes in boxes_and_gt[1]]
    with EventStorage():
        sampled, losses = roi_heads(None, features(), given, targets)
    loss = sum(losses.values())
    assert torch.isfinite(loss) or all(len(s) == 0 for s in sampled)
    loss.backward()


@pytest.mark.parametrize("num_images", [1, 2, 6])
def test_one_wait_a_batch(num_images):
    roi_heads = heads()
    given, targets = scene(num_images)
    with EventStorage(), CountWaits() as count:
        roi_heads.label_and_sample_proposals(given, targets)
    assert len(count.waits) <= 1, count.waits


@pytest.mark.parametrize("num_images", [1, 6])
def test_cascade_waits_once_a_stage(num_images):
    roi_heads = heads(config="libra_cascade_rcnn_R_50_FPN_1x.yaml")
    given, targets = scene(num_images)
    boxes = [p.proposal_boxes.tensor for p in given]
    with EventStorage(), CountWaits() as count:
        given = roi_heads._create_proposals_from_boxes(boxes, [SIZE] * num_images)
        roi_heads._match_and_label_boxes(given, 1, targets)
    assert len(count.waits) <= 1, count.waits


def test_cascade_stages_match_as_detectron2_does():
    roi_heads = heads(config="libra_cascade_rcnn_R_50_FPN_1x.yaml")
    given, targets = scene(3)
    boxes = [p.proposal_boxes.tensor + torch.tensor([[-20.0, 0, 20, 0]]) for p in given]
    boxes[0][:5] = torch.tensor([-30.0, -30, -10, -10])  # empty after clipping
    base = super(type(roi_heads), roi_heads)
    with EventStorage() as ours_log:
        ours = roi_heads._match_and_label_boxes(
            roi_heads._create_proposals_from_boxes([b.clone() for b in boxes], [SIZE] * 3), 1, targets
        )
    with EventStorage() as theirs_log:
        theirs = base._match_and_label_boxes(
            base._create_proposals_from_boxes([b.clone() for b in boxes], [SIZE] * 3), 1, targets
        )
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(mine.gt_classes, other.gt_classes)
        foreground = mine.gt_classes < 5
        assert torch.equal(mine.gt_boxes.tensor[foreground], other.gt_boxes.tensor[foreground])
    assert {k: v[0] for k, v in ours_log.latest().items()} == {k: v[0] for k, v in theirs_log.latest().items()}


@pytest.mark.parametrize("loss", ["balanced_l1", "smooth_l1"])
@pytest.mark.parametrize("config", ["libra_faster_rcnn_R_50_FPN_1x.yaml", "libra_cascade_rcnn_R_50_FPN_1x.yaml"])
def test_losses_of_boxes_add_up_to_the_loss(loss, config):
    roi_heads = heads("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", loss, config=config)
    given, targets = scene(2)
    seen = {}

    def sampler(labels, ious, matched_idx, offsets, losses):
        seen["labels"], seen["losses"] = labels, losses()
        everything = torch.full((2, 300), -1)
        counts = offsets.diff()
        for n, count in enumerate(counts.tolist()):
            order = torch.argsort(labels[offsets[n] : offsets[n + 1]], descending=True, stable=True)
            everything[n, :count] = order
        positive = torch.stack([(part > 0).sum() for part in labels.split(counts.tolist())])
        return everything, positive, counts - positive

    roi_heads.box_sampler = sampler
    with EventStorage():
        _, losses = roi_heads(None, features(), given, targets)
    stage = "_stage0" if "cascade" in config else ""
    expected = losses[f"loss_cls{stage}"] + losses[f"loss_box_reg{stage}"]
    torch.testing.assert_close(seen["losses"].mean(), expected.detach(), rtol=1e-4, atol=1e-5)


def test_ohem_takes_the_hardest_of_each_image():
    roi_heads = heads("MODEL.LIBRA.SAMPLER.NAME", "OHEMSampler", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)
    labels = torch.tensor([1, 0, 1, 0, -1, 1, 0, 0, 1, 1], dtype=torch.int8)
    loss = torch.tensor([0.1, 5.0, 3.0, 0.2, 9.0, 2.0, 0.3, 7.0, 1.0, 1.0])
    offsets = torch.tensor([0, 7, 7, 10])
    indices, positive, negative = roi_heads.box_sampler(labels, None, None, offsets, lambda: loss)
    assert indices.tolist() == [[2, 5, 1, 3, 6, -1, -1, -1], [-1] * 8, [1, 2, 0, -1, -1, -1, -1, -1]]
    assert positive.tolist() == [2, 0, 2]
    assert negative.tolist() == [3, 0, 1]


def test_ones_own_sampler_is_a_class_and_a_name():
    @BOX_SAMPLER_REGISTRY.register()
    class FirstBoxes:
        def __init__(self, cfg):
            pass

        def __call__(self, labels, ious, matched_idx, offsets, losses):
            none = torch.zeros(len(offsets) - 1, dtype=torch.int64)
            return torch.zeros(len(none), 1, dtype=torch.int64), none, none + 1

    given, targets = scene(2)
    ours, _ = sample(heads("MODEL.LIBRA.SAMPLER.NAME", "FirstBoxes"), given, targets)
    for n in range(2):
        assert torch.equal(ours[n].proposal_boxes.tensor, given[n].proposal_boxes.tensor[:1])


def test_balanced_l1_needs_no_other_part_of_libra():
    given, targets = scene(2)
    roi_heads = heads("MODEL.LIBRA.SAMPLER.POSITIVE", "random", "MODEL.LIBRA.SAMPLER.NEGATIVE", "random")
    assert isinstance(roi_heads, StandardROIHeads)
    losses = {}
    predictor = roi_heads.box_predictor
    for name, box_loss in (("balanced_l1", predictor.box_loss), ("smooth_l1", None)):
        predictor.box_reg_loss_type, predictor.box_loss = name, box_loss
        torch.manual_seed(0)
        with EventStorage():
            losses[name] = roi_heads(None, features(), given, targets)[1]
    assert losses["balanced_l1"]["loss_cls"] == losses["smooth_l1"]["loss_cls"]
    assert losses["balanced_l1"]["loss_box_reg"] != losses["smooth_l1"]["loss_box_reg"]
