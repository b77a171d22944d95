"""Each deviation from MMDetection's training code that docs/differences.md lists, their code running beside ours."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

import libra_d2
from libra_d2 import ops
from libra_d2.losses import balanced_l1_loss
from libra_d2.modeling import BalancedFeaturePyramid, BalancedSampler
from tests.modeling.builders import Pyramid

ROOT = Path(libra_d2.__file__).parents[1]
MMDET = {"bin_upper": "max_all", "floor_thr": 0.0}


@pytest.fixture
def theirs(mmdet):
    return mmdet("facts")


def draw(labels, ious, num_samples, *, positive_fraction=0.25, times=30, **options):
    """(positives, negatives) of each of `times` images with these boxes; `labels` as theirs, g > 0 is matched."""
    offsets = torch.arange(times + 1) * len(labels)
    matched = (labels - 1).clamp(min=0)
    indices, num_positive, num_negative = ops.bucketed_sample(
        (labels > 0).to(torch.int8).repeat(times),
        ious.repeat(times),
        matched.repeat(times),
        offsets,
        num_samples,
        positive_fraction,
        seed=torch.tensor(7),
        **options,
    )
    rows = zip(indices, num_positive.tolist(), num_negative.tolist(), strict=True)
    return [(row[:p], row[p : p + n]) for row, p, n in rows]


def negatives(oracle, num_bins, **options):
    """384 negatives, 30 times, from the boxes of the oracle: int64 [30, 384]."""
    drawn = draw(oracle["labels"], oracle["ious"], 389, num_bins=num_bins, **options)
    return torch.stack([negative for _, negative in drawn])


def histogram(oracle, draws, bins=6):
    """Mean number of draws in each of `bins` equal intervals of IoU below 0.5, zero left out, and its deviation."""
    ious = oracle["ious"][draws]
    counts = torch.stack([torch.histc(row[row > 0], bins, 0, 0.5) for row in ious])
    return counts.mean(0), counts.std(0) / len(counts) ** 0.5


def test_the_floor_does_not_depend_on_how_often_one_sampled(theirs):
    """Theirs draws boxes without any overlap on its first call, and never again; ours always does or never."""
    oracle = theirs["draws_of_negatives"]
    zero = oracle["ious"] == 0
    their_counts = zero[oracle["K=3"]].sum(1)
    assert their_counts[0] > 100
    assert (their_counts[1:] == 0).all()
    assert (zero[negatives(oracle, 3, bin_upper="max_all", floor_thr=-1.0)].sum(1) > 100).all()
    assert (zero[negatives(oracle, 3, bin_upper=0.5)].sum(1) > 50).all()
    assert (zero[negatives(oracle, 3, **MMDET)].sum(1) == 0).all()

    sampler = BalancedSampler(libra_d2.get_cfg())
    labels = torch.where(oracle["labels"] > 0, 1, 0).to(torch.int8)
    for _ in range(3):
        offsets, matched = torch.tensor([0, len(labels)]), torch.zeros(len(labels), dtype=torch.int64)
        (row,), (num_positive,), _ = sampler(labels, oracle["ious"], matched, offsets, None)
        assert zero[row[num_positive:][row[num_positive:] >= 0]].sum() > 50


@pytest.mark.parametrize("num_bins", [2, 3, 5])
def test_the_mmdet_options_draw_as_theirs_does_after_its_first_call(theirs, num_bins):
    oracle = theirs["draws_of_negatives"]
    their_mean, their_error = histogram(oracle, oracle[f"K={num_bins}"][1:])
    our_mean, our_error = histogram(oracle, negatives(oracle, num_bins, **MMDET))
    assert ((their_mean - our_mean).abs() <= 4 * (their_error + our_error) + 0.5).all()


def test_their_bins_reach_up_to_one_and_two_of_them_are_random_sampling(theirs):
    """With two bins up to 1 every negative is in the first; with two up to 0.5 half of the draws are above 0.25."""
    oracle = theirs["draws_of_negatives"]
    overlapping = oracle["ious"][(oracle["ious"] > 0) & (oracle["ious"] < 1)]
    share = (overlapping >= 0.25).float().mean().item()
    assert share < 0.25
    hard = {
        "theirs": (oracle["ious"][oracle["K=2"][1:]] >= 0.25).float().mean().item(),
        "ours": (oracle["ious"][negatives(oracle, 2, bin_upper=0.5, floor_thr=0.0)] >= 0.25).float().mean().item(),
    }
    assert hard["theirs"] == pytest.approx(share, abs=0.01)
    assert hard["ours"] == pytest.approx(0.5, abs=0.01)


def test_the_hardest_negative_belongs_to_the_last_bin(theirs):
    """Theirs leaves the box at the upper edge out of every bin; ours does so for "max_all" alone."""
    oracle = theirs["draws_at_the_upper_edge"]
    labels = torch.zeros(len(oracle["ious"]), dtype=torch.int64)

    def times_drawn(draws):
        draws = torch.stack(list(draws))
        return (draws == 0).sum().item(), (draws == 1).sum().item()

    def ours(bin_upper):
        drawn = draw(labels, oracle["ious"], 3, times=100, bin_upper=bin_upper, floor_thr=0.0)
        return times_drawn(negative for _, negative in drawn)

    assert times_drawn(oracle["draws"]) == (0, 100)
    assert ours("max_all") == (0, 100)
    edge, other = ours("max_neg")
    assert edge + other == 100
    assert 25 < edge < 75


@pytest.mark.parametrize("name", ["dominant", "even"])
def test_positives_are_topped_up_and_even(theirs, name):
    """Theirs tops up with boxes it already has and returns too few, and thins out at random what was even."""
    oracle = theirs["draws_of_positives"][name]
    labels = oracle["labels"]
    ours = [positive for positive, _ in draw(labels, torch.full((len(labels),), 0.7), 512, times=20)]
    assert all(len(positive) == positive.unique().numel() == 128 for positive in ours)
    per_object = torch.stack([torch.bincount(labels[positive])[1:] for positive in ours])
    if name == "dominant":
        assert all(len(their_draw) < 128 for their_draw in oracle["draws"])
        assert (per_object == torch.tensor([124, 1, 1, 1, 1])).all()
    else:
        their_spread = [
            torch.bincount(labels[d])[1:].max() - torch.bincount(labels[d])[1:].min() for d in oracle["draws"]
        ]
        assert max(their_spread) > 1
        assert (per_object.amax(1) - per_object.amin(1) == 1).all()  # 128 = 8 * 13 + 2 * 12


@pytest.mark.parametrize("beta", [1.0, 0.11])
def test_balanced_l1_beside_theirs(theirs, beta):
    curve = theirs["loss_curves"][str(beta)]
    x = curve["x"].clone().requires_grad_()

    def ours(variant):
        loss = balanced_l1_loss(x, torch.zeros_like(x), beta=beta, variant=variant)
        return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]

    loss, slope = ours("mmdet")
    torch.testing.assert_close(loss, curve["loss"])
    torch.testing.assert_close(slope, curve["slope"])

    _, slope = ours("paper")
    assert slope[0].item() == pytest.approx(0, abs=1e-6)
    assert (slope.diff() >= -1e-12).all(), "small errors get small gradients"
    if beta == 1:
        torch.testing.assert_close(slope, curve["slope"])
    else:
        assert curve["slope"][0].item() == pytest.approx(4.0455, abs=1e-4)
        assert curve["slope"][0] > 2 * curve["slope"][-1], "theirs boosts small errors above large ones"


def test_the_refine_starts_with_xavier(theirs):
    """Theirs ends with N(0, 0.01) and a zero conv_out; the authors' runs, and ours, with Xavier everywhere."""
    their = theirs["initial_pyramid"]["non_local"]
    assert their["refine.conv_out.conv.weight"] == 0
    assert their["refine.theta.conv.weight"].item() == pytest.approx(0.01, rel=0.05)
    torch.manual_seed(0)
    ours = BalancedFeaturePyramid(Pyramid({"p3": (2, 2), "p4": (1, 1)}, channels=256), init="mmdet")
    for name, std in their.items():
        weight = ours.state_dict()[name.replace(".conv.", ".")]
        assert weight.std().item() == pytest.approx(std.item(), rel=0.05)
    xavier = (2 / (256 + 256)) ** 0.5
    sizes = {"p2": (4, 4), "p3": (2, 2), "p4": (1, 1)}
    pyramids = {init: BalancedFeaturePyramid(Pyramid(sizes, channels=256), init=init) for init in ("xavier", "zero")}
    for name in ("theta", "phi", "g", "conv_out"):
        weight = pyramids["xavier"].refine.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(xavier, rel=0.05)
    assert (pyramids["zero"].refine.conv_out.weight == 0).all()


def test_an_object_beside_all_boxes_matches_none(theirs):
    """Theirs, and Detectron2's, call every box without overlap a match of an object that overlaps no box."""
    oracle = theirs["lonely_ground_truth"]
    anchors, gt = oracle["anchors"], oracle["gt"]
    assert oracle["gt_inds"].tolist() == [2, 2, 2]  # even the anchor that the first object covers goes to the second
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    _, their_labels = matcher(pairwise_iou(Boxes(gt), Boxes(anchors)))
    assert their_labels.tolist() == [1, 1, 1]
    ours = ops.match_boxes(
        anchors, gt, torch.tensor([0, 3]), torch.tensor([0, 2]), [0.4, 0.5], [0, -1, 1], allow_low_quality=True
    )
    assert ours[2].tolist() == [1, 0, 0]


def test_the_rpn_divides_by_what_it_drew(theirs):
    """As theirs does, but for images without any positive, which theirs counts one higher than they are."""
    oracle = theirs["divisor_of_the_rpn"]
    assert oracle == {"objects": {"drawn": 60, "divisor": 60}, "no object": {"drawn": 5, "divisor": 6}}
    for num_positive, expected in ((10, 60), (0, 5)):
        labels = torch.cat([torch.ones(num_positive), torch.zeros(4000)]).long()
        ((positive, negative),) = draw(
            labels,
            labels.float(),
            256,
            positive_fraction=0.5,
            times=1,
            positive="random",
            negative="random",
            neg_pos_ub=5.0,
        )
        assert len(positive) + len(negative) == expected


def test_every_row_of_the_page_names_its_test():
    page = (ROOT / "docs" / "differences.md").read_text()
    rows = [
        line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| they", "| behaviour"))
    ]
    assert len(rows) > 10
    assert [row for row in rows if "::test_" not in row] == []
