"""benchmarks/accuracy/probes.py: what the tables of measure.py say of models that are known."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn

import libra_d2
from libra_d2.modeling import BalancedFeaturePyramid


class Image:
    """Stands in for Detectron2's Instances: fields, and a length."""

    def __init__(self, **fields):
        vars(self).update(fields)

    def __len__(self):
        return len(next(iter(vars(self).values())))


class Levels(nn.Module):
    """A pyramid of three levels that gives its input at three sizes."""

    def output_shape(self):
        from detectron2.layers import ShapeSpec

        return {f"p{i}": ShapeSpec(channels=1, stride=2**i) for i in (3, 4, 5)}

    def forward(self, x):
        return {f"p{i}": nn.functional.adaptive_avg_pool2d(x, (48 >> i, 64 >> i)) for i in (3, 4, 5)}


def pyramid_rows(accuracy, x, **options):
    backbone = BalancedFeaturePyramid(Levels(), **options)
    model = nn.Module()
    model.backbone = backbone
    probe = accuracy("probes").Pyramid(model)
    backbone(x)
    probe.remove()
    backbone(100 * x)  # no longer looked at
    return {row[0]: row[1:] for row in probe.rows()}


def test_what_the_pyramid_adds_is_compared_with_what_was_there(accuracy):
    rows = pyramid_rows(accuracy, torch.full((1, 1, 6, 8), 2.0), refine_type="none")
    assert rows == dict.fromkeys(("p3", "p4", "p5"), ["2.00", "2.00", "1.00"])  # the mean of equal levels
    rows = pyramid_rows(accuracy, torch.full((1, 1, 6, 8), 2.0), refine_type="none", init="identity")
    assert rows["p3"] == ["2.00", "0.00", "0.00"]  # a closed gate


def attended(accuracy, theta_weight, theta_bias, phi_weight):
    """{how the logits are made: [largest, attended positions]} where one of twelve positions stands out."""
    model = nn.Module()
    model.backbone = BalancedFeaturePyramid(Levels())
    refine = model.backbone.refine
    nn.init.constant_(refine.theta.weight, theta_weight)
    nn.init.constant_(refine.theta.bias, theta_bias)
    nn.init.constant_(refine.phi.weight, phi_weight)
    level = torch.full((1, 1, 3, 4), 2.0)
    level[0, 0, 1, 1] = 4.0
    probe = accuracy("probes").Attention(model)
    refine(level)
    probe.remove()
    refine(100 * level)  # no longer looked at
    return {row[0]: row[1:] for row in probe.rows()}


@pytest.mark.parametrize(("weight", "row"), [(0.0, ["0", "12.0 of 12"]), (10.0, ["1600", "1.0 of 12"])])
def test_attention_that_is_even_and_that_sees_one_position(accuracy, weight, row):
    assert attended(accuracy, weight, 0.0, weight)["as they are"] == row


def test_attention_is_over_the_positions_that_a_query_looks_at(accuracy):
    """All queries are alike and look at the one position that stands out."""
    rows = attended(accuracy, 0.0, 10.0, 10.0)
    assert rows["as they are"] == ["400", "1.0 of 12"]
    assert rows["from N(0, 0.01)"] == ["0", "12.0 of 12"]  # a hundredth of each weight, of one channel
    assert rows["cosines times sqrt(C)"] == ["1", "12.0 of 12"]


def test_the_shares_are_those_of_the_negatives_and_of_what_is_drawn(accuracy):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = []
            self.box_sampler = Sampler(self.calls)

    class Sampler:
        options = {"num_samples": 40, "positive_fraction": 0.25, "negative": "iou_balanced", "bin_upper": "max_all"}

        def __init__(self, calls):
            self.calls = calls

        def __call__(self, *args):
            self.calls.append(len(args))
            return "what the model trains on"

    model = nn.Module()
    model.roi_heads = Heads()
    own = model.roi_heads.box_sampler
    probe = accuracy("probes").Draws(model)
    # one image: 700 negatives that overlap nothing, 100, 100 and 100 in the three bins, 20 positives
    ious = torch.cat([torch.zeros(700), torch.full((100,), 0.1), torch.full((100,), 0.2), torch.full((100,), 0.4)])
    ious = torch.cat([ious, torch.full((20,), 0.8)])
    labels = (ious > 0.5).to(torch.int8)
    given = model.roi_heads.box_sampler(
        labels, ious, torch.zeros(1020, dtype=torch.int64), torch.tensor([0, 1020]), None
    )
    assert given == "what the model trains on"
    probe.remove()
    assert model.roi_heads.box_sampler is own
    rows = {row[0]: row[1:] for row in probe.rows()}
    assert rows["all"] == ["1000", "70.0 %", "10.0 %", "10.0 %", "10.0 %", "20.0"]
    assert [rows[way][0] for way in ("random", "balanced", "floor 0.1, half")] == ["30", "30", "30"]
    assert rows["balanced"][3:] == ["33.3 %", "33.3 %", "10.0"]
    # the floor is what lies below 0.1; the bins above it are a little higher than the paper's
    assert float(rows["floor 0.1, half"][1].split()[0]) == 50.0


def test_recall_is_told_by_size(accuracy):
    class Proposals(nn.Module):
        def forward(self, images, features, truths):
            return [Image(proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10], [50, 50, 150, 150]])))], {}

    model = nn.Module()
    model.proposal_generator = Proposals()
    probe = accuracy("probes").Recall(model)
    # covered to 0.8, to 0, and to 1
    truths = Boxes(torch.tensor([[0.0, 0, 10, 8], [300, 300, 340, 340], [50, 50, 150, 150]]))
    model.proposal_generator(None, None, [Image(gt_boxes=truths)])
    probe.remove()
    assert {row[0]: row[1:] for row in probe.rows()} == {
        "small": [1, "100.0 %", "100.0 %", "0.0 %"],
        "medium": [1, "0.0 %", "0.0 %", "0.0 %"],
        "large": [1, "100.0 %", "100.0 %", "100.0 %"],
        "all": [3, "66.7 %", "66.7 %", "33.3 %"],
    }


def test_classes_are_counted_without_the_background(accuracy):
    class Heads(nn.Module):
        num_classes = 3

        def label_and_sample_proposals(self, proposals, targets):
            return [Image(gt_classes=torch.tensor([0, 0, 0, 1, 3, 3, 3]))]

    model = nn.Module()
    model.roi_heads = Heads()
    probe = accuracy("probes").Positives(model)
    sampled = model.roi_heads.label_and_sample_proposals([], [Image(gt_classes=torch.tensor([0, 2]))])
    assert len(sampled[0].gt_classes) == 7
    probe.remove()
    model.roi_heads.label_and_sample_proposals([], [])  # no longer looked at
    assert probe.rows() == [[0, "50.0 %", "75.0 %"], [1, "0.0 %", "25.0 %"], [2, "50.0 %", "0.0 %"]]


def test_gradients_of_each_loss_reach_what_it_depends_on(accuracy):
    model = nn.Module()
    model.backbone = nn.Linear(1, 1, bias=False)
    model.roi_heads = nn.Module()
    model.roi_heads.box_head = nn.Linear(1, 1, bias=False)
    probe = accuracy("probes").Gradients(model)
    feature = model.backbone(torch.tensor([3.0]))
    with torch.no_grad():
        model.roi_heads.box_head.weight.fill_(2.0)
    probe.after({"loss_rpn": 5 * feature.sum(), "loss_box": model.roi_heads.box_head(feature).sum()})
    rows = {row[0]: row[2:] for row in probe.rows()}
    assert rows["loss_rpn"] == ["15.000", "0.000"]
    assert rows["loss_box"][0] == "6.000"


def test_each_checkpoint_is_measured_once_in_the_order_of_iterations(accuracy, tmp_path):
    measure = accuracy("measure")
    with pytest.raises(SystemExit, match=r"expected model_\*.pth, got none"):
        measure.checkpoints(tmp_path, 200)
    for name in ("model_final", "model_0000199", "model_0000099"):
        (tmp_path / f"{name}.pth").touch()
    found = measure.checkpoints(tmp_path, 200)
    assert [(count, path.stem) for count, path in found.items()] == [(100, "model_0000099"), (200, "model_final")]


def test_weights_are_measured_as_another_arm_unless_that_lacks_some_of_them(accuracy, tmp_path):
    measure, arms = accuracy("measure"), accuracy("arms").ARMS
    path = tmp_path / "model_final.pth"

    def config(arm):
        cfg = libra_d2.get_cfg()
        cfg.merge_from_file(str(accuracy("sets").QUICKSTART))
        cfg.merge_from_list(
            [*arms["detectron2"], *measure.OURS, *arms[arm], "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
        )
        return cfg

    torch.save({"model": build_model(config("detectron2")).state_dict()}, path)
    new = measure.load(config("libra"), path)
    weights = torch.load(path)["model"]["backbone.fpn_output3.weight"]
    assert torch.equal(new.backbone.bottom_up.fpn_output3.weight, weights)
    assert type(new.roi_heads).__name__ == "LibraROIHeads"
    torch.save({"model": new.state_dict()}, path)
    with pytest.raises(SystemExit, match="model_final.pth: expected .* unknown ones for .*backbone.refine.theta"):
        measure.load(config("baseline"), path)
