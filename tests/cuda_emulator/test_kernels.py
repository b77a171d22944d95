"""The CUDA kernels, run by the emulator, give the results of the reference and of the CPU core bit for bit."""

import functools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_d2 import ops
from libra_d2.ops._reference import philox
from tests.ops.backends import BACKENDS, ON_GPU, using
from tests.ops.ragged_batches import box_batches, pack, strided

from .emulated import ORDERS, emulated

SCHEMES = [([0.5], [0, 1]), ([0.3, 0.7], [0, -1, 1]), ([0.25, 0.25, 0.6], [-1, 1, 0, 1])]
orders = st.sampled_from(ORDERS)


def ways(**emulations):
    """The kernels emulated with these options each, and on a GPU where there is one."""
    emulators = {name: functools.partial(emulated, **options) for name, options in emulations.items()}
    gpus = {name: functools.partial(using, name) for name in ON_GPU}
    return pytest.mark.parametrize("run", [pytest.param(run, id=name) for name, run in {**emulators, **gpus}.items()])


def assert_bits_equal(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.dtype == torch.float32:
            one, other = one.view(torch.int32), other.view(torch.int32)
        assert torch.equal(one, other)


def boxes_on_lattice(generator, count, *, extent=400, most=90):
    """Whole coordinates and few sizes, so that IoUs tie."""
    corner = torch.randint(0, extent, (count, 2), generator=generator)
    size = torch.randint(-1, most // 6, (count, 2), generator=generator) * 6
    return torch.cat([corner, corner + size], dim=1).float()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=80)
@given(
    batch=box_batches(), scheme=st.sampled_from(SCHEMES), low_quality=st.booleans(), shared=st.booleans(), order=orders
)
def test_match_and_iou_of_odd_batches(backend, batch, scheme, low_quality, shared, order):
    boxes, box_offsets = pack([boxes for boxes, _ in batch], torch.empty(0, 4))
    gts, gt_offsets = pack([gts for _, gts in batch], torch.empty(0, 4))
    args = (boxes, gts, None if shared else box_offsets, gt_offsets, *scheme, low_quality)
    iou_args = (boxes, gts, box_offsets, gt_offsets)
    with using(backend):
        expected, expected_ious = ops.match_boxes(*args), ops.batched_iou(*iou_args)
    with emulated(order):
        assert_bits_equal(ops.match_boxes(*args), expected)
        assert_bits_equal(ops.batched_iou(*iou_args), expected_ious)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("arch", [750, 800])
@pytest.mark.parametrize("shared", [False, True])
def test_match_and_iou_across_many_blocks_and_tiles(backend, order, arch, shared):
    generator = torch.Generator().manual_seed(1)
    sizes, gt_sizes = [700, 0, 256, 1, 0, 515], [65, 5, 130, 0, 0, 300]
    boxes, gts = boxes_on_lattice(generator, sum(sizes)), boxes_on_lattice(generator, sum(gt_sizes))
    boxes[::97, 2], gts[::53, 1] = float("nan"), float("inf")
    box_offsets, gt_offsets = (torch.tensor([0, *s]).cumsum(0) for s in (sizes, gt_sizes))
    args = (boxes, gts, None if shared else box_offsets, gt_offsets, [0.3, 0.7], [0, -1, 1], True)
    iou_args = (strided(boxes), strided(gts), box_offsets, gt_offsets)
    with using(backend):
        expected, expected_ious = ops.match_boxes(*args), ops.batched_iou(*iou_args)
    assert (expected[2] == 1).sum() > (expected[1] >= 0.7).sum() > 0  # both ways to a positive label are taken
    with emulated(order, seed=5, arch=arch):
        assert_bits_equal(ops.match_boxes(*args), expected)
        if not shared:
            assert_bits_equal(ops.batched_iou(*iou_args), expected_ious)


@ways(forward={}, reverse={"order": "reverse"})
def test_the_best_of_ious_that_hardly_differ(run):
    # Divisions are saved where they cannot change the maximum; here they can, by the last bit of a float.
    generator = torch.Generator().manual_seed(11)
    corner = torch.rand(300, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 50 + torch.rand(300, 2, generator=generator) * 50], dim=1)
    around = torch.tensor([20.0, 20.0, 90.0, 90.0]).repeat(400, 1)
    gts = around + torch.rand(400, 4, generator=generator) * 10.0 ** -torch.arange(400).remainder(7)[:, None]
    args = (boxes, gts, torch.tensor([0, 0, 300]), torch.tensor([0, 0, 400]), [0.5], [0, 1], False)
    expected = ops.match_boxes(*args)
    with run():
        assert_bits_equal(ops.match_boxes(*args), expected)


def rpn_anchors():
    """The anchors of a 1344 x 800 image: three shapes on each cell of five levels."""
    levels = []
    for stride in (4, 8, 16, 32, 64):
        y, x = torch.meshgrid(torch.arange(0, 800, stride), torch.arange(0, 1344, stride), indexing="ij")
        centre = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4).float()
        height = 8 * stride * torch.tensor([0.5, 1, 2]).sqrt()
        half = torch.stack([-((8 * stride) ** 2) / height, -height, (8 * stride) ** 2 / height, height], dim=1) / 2
        levels.append((centre + half).reshape(-1, 4))
    return torch.cat(levels)


@pytest.fixture(scope="module")
def rpn_batch():
    """Anchors, ground truths of two images and the labels that they make."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(27, 2, generator=generator) * torch.tensor([1100.0, 600.0])
    gts = torch.cat([corner, corner + 8 + torch.rand(27, 2, generator=generator) * 200], dim=1).round()
    anchors, gt_offsets = rpn_anchors(), torch.tensor([0, 7, 27])
    return anchors, gts, gt_offsets, ops.match_boxes(anchors, gts, None, gt_offsets, [0.3, 0.7], [0, -1, 1], True)


@ways(forward={}, random={"order": "random"})
def test_match_of_rpn_anchors(rpn_batch, run):
    anchors, gts, gt_offsets, expected = rpn_batch
    assert len(anchors) > 260_000
    with run():
        actual = ops.match_boxes(anchors, gts, None, gt_offsets, [0.3, 0.7], [0, -1, 1], True)
    assert_bits_equal(actual, expected)


@pytest.mark.parametrize("negative", ["random", "iou_balanced"])
@ways(listed={"swept": True}, list_too_short={"swept": True, "list_slack": -300})
def test_sample_of_rpn_anchors(rpn_batch, negative, run):
    anchors, _, _, (index, iou, label) = rpn_batch
    offsets = torch.arange(3) * len(anchors)
    args = (label.view(-1), iou.view(-1), index.view(-1), offsets, 256, 0.25)
    options = {"positive": "random", "negative": negative, "floor_thr": 0.0, "neg_pos_ub": 5.0, "seed": torch.tensor(3)}
    expected = ops.bucketed_sample(*args, **options)
    assert (expected[1] > 0).all()
    with run() as kernels:
        assert_bits_equal(ops.bucketed_sample(*args, **options), expected)
    # A GPU does not tell. Else the list would be right, but never of use.
    assert kernels is None or kernels.distrusted == ("list_slack" in run.keywords)


def random_case(seed):
    """A ragged batch and options, both drawn so that every branch of docs/sampling.md is taken now and then."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    most = draw.choice([3, 40, 300, 1000])
    offsets = torch.tensor([0, *(draw.randint(0, most) for _ in range(draw.randint(1, 4)))]).cumsum(0)
    rows = int(offsets[-1])
    sign = torch.rand(rows, generator=generator)
    positives = draw.choice([0, 0.1, 0.5, 1])
    labels = torch.where(sign < positives, 1, torch.where(sign > 0.9, -1, 0)).char()
    ious = torch.rand(rows, generator=generator) * 0.6
    ious = torch.where(torch.rand(rows, generator=generator) < 0.3, 0.0, ious)
    if draw.random() < 0.4:
        ious = (ious * 20).round() / 20  # on the edges of the bins
    ious[torch.rand(rows, generator=generator) < 0.02] = float("nan")
    matched_idx = torch.randint(0, draw.choice([1, 5, 60]), (rows,), generator=generator)
    matched_idx += torch.randint(-1, 2, (rows,), generator=generator) * draw.choice([0, 2**32])
    options = {
        "num_samples": draw.choice([1, 8, 32, 64, 200]),
        "positive_fraction": draw.choice([0.0, 0.25, 0.3, 0.5, 1.0]),
        "positive": draw.choice(["instance_balanced", "random"]),
        "negative": draw.choice(["iou_balanced", "iou_balanced", "random"]),
        "num_bins": draw.choice([1, 3, 5, 40, 300]),
        "bin_upper": draw.choice([0.5, 0.3, "max_all", "max_neg"]),
        "floor_thr": draw.choice([-1.0, 0.0, 0.1, 0.2]),
        "floor_fraction": draw.choice([0.0, 0.1, 0.3, 1.0]),
        "neg_pos_ub": draw.choice([-1.0, 0.0, 0.7, 3.0, 1e300]),
        "seed": torch.tensor(draw.randrange(-(2**63), 2**63)),
    }
    return (labels, ious, matched_idx, offsets), options


RUNS = {
    "as_launched": lambda seed: {},
    "two_warps": lambda seed: {"threads": 64, "order": "random"},
    "listed": lambda seed: {"threads": 64, "swept": True, "order": "reverse", "list_slack": 0},
    # From all but surely long enough to nearly empty: each reason to distrust a list comes up.
    "list_of_any_length": lambda seed: {"threads": 64, "swept": True, "order": "random", "list_slack": -2 * seed},
    "sm_75": lambda seed: {"swept": True, "arch": 750, "order": "random"},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_sample_of_random_batches(backend, run):
    for seed in range(100):
        args, options = random_case(seed)
        with using(backend):
            expected = ops.bucketed_sample(*args, **options)
        with emulated(seed=seed + 1, **run(seed)):
            assert_bits_equal(ops.bucketed_sample(*args, **options), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("swept", [False, True])
def test_boxes_with_equal_keys_are_drawn_by_index(order, swept):
    # 32-bit keys collide: find two boxes with the same first key, and let one of them be drawn.
    seed, rows = torch.tensor(17), torch.arange(200_000)
    key = philox.draw(seed, rows, torch.zeros_like(rows), philox.BOX)[0]
    sorted_key, row = key.sort(stable=True)
    same = (sorted_key[1:] == sorted_key[:-1]).nonzero()[:, 0]
    assert len(same) > 0
    for first, second in zip(row[same].tolist(), row[same + 1].tolist(), strict=True):
        labels = torch.full((len(rows),), -1, dtype=torch.int8)
        labels[[first, second]] = 0
        args = (labels, torch.zeros(len(rows)), torch.zeros_like(rows), torch.tensor([0, len(rows)]), 1, 0.0)
        with emulated(order, swept=swept):
            indices, *_ = ops.bucketed_sample(*args, negative="random", seed=seed)
        assert indices.tolist() == [[min(first, second)]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [32, 1024])
def test_sample_does_not_depend_on_the_size_of_blocks(backend, threads):
    args, options = random_case(9)
    with using(backend):
        expected = ops.bucketed_sample(*args, **options)
    with emulated(threads=threads):
        assert_bits_equal(ops.bucketed_sample(*args, **options), expected)


@ways(alone={}, listed={"swept": True})
@pytest.mark.parametrize("positive", ["random", "instance_balanced"])
def test_sample_thousands_of_boxes(positive, run):
    # 6000 of 9000 positives among 2500 ground truths, which are ten times what a block tells apart at once, and 6000 of
    # 12,000 negatives.
    generator = torch.Generator().manual_seed(4)
    labels = (torch.rand(21_000, generator=generator) < 9 / 21).char()
    ious, matched_idx = torch.rand(21_000, generator=generator), torch.randint(0, 2500, (21_000,), generator=generator)
    args = (labels, ious, matched_idx, torch.tensor([0, 0, 21_000]), 12_000, 0.5)
    options = {"positive": positive, "seed": torch.tensor(8)}
    expected = ops.bucketed_sample(*args, **options)
    assert expected[1].tolist() == expected[2].tolist() == [0, 6000]
    with run() as kernels:
        assert_bits_equal(ops.bucketed_sample(*args, **options), expected)
    assert kernels is None or not kernels.distrusted


@ways(listed={"swept": True})
@pytest.mark.parametrize("num_bins", [125, 256])
def test_sample_from_many_bins(num_bins, run):
    # With BAL and FLOOR the latter are more groups than a block tells apart at once. Each bin lists some 30 boxes more
    # than it gives.
    generator = torch.Generator().manual_seed(9)
    labels, ious = torch.zeros(60_000, dtype=torch.int8), torch.rand(60_000, generator=generator) / 2
    args = (labels, ious, torch.zeros(60_000, dtype=torch.int64), torch.tensor([0, 60_000]), 256, 0.25)
    options = {"num_bins": num_bins, "seed": torch.tensor(6)}
    expected = ops.bucketed_sample(*args, **options)
    assert torch.histc(ious[expected[0][0]], num_bins, 0, 0.5).min() >= 256 // num_bins
    with run() as kernels:
        assert_bits_equal(ops.bucketed_sample(*args, **options), expected)
    assert kernels is None or not kernels.distrusted


@ways(alone={}, listed={"swept": True})
def test_ground_truths_far_apart_are_balanced(run):
    # Whatever the numbers of ground truths are, also the largest that 32 bits hold.
    generator = torch.Generator().manual_seed(10)
    numbers = torch.tensor([0, 255, 256, 300, 70_000, 2**31, 2**32 - 257, 2**32 - 256, 2**32 - 1])
    matched_idx = numbers[torch.multinomial(torch.arange(1.0, 10.0), 3000, replacement=True, generator=generator)]
    args = (torch.ones(3000, dtype=torch.int8), torch.zeros(3000), matched_idx, torch.tensor([0, 3000]))
    for num_samples in (5, 100, 2900):
        options = {"seed": torch.tensor(num_samples)}
        expected = ops.bucketed_sample(*args, num_samples, 1.0, **options)
        with run():
            assert_bits_equal(ops.bucketed_sample(*args, num_samples, 1.0, **options), expected)


@pytest.mark.parametrize(
    ("num_samples", "num_bins", "bin_upper", "list_slack"),
    [
        # 10 of the only bin in use, and 390 refilled: what is listed for those would do for the bin, but wrongly.
        (400, 40, 20.0, -43),
        # 60 of each of three bins, and 2 refilled: what the bins leave over would do for those, but wrongly.
        (182, 3, 0.5, -25),
    ],
    ids=["bins", "refill"],
)
def test_a_list_of_the_wrong_boxes_is_distrusted(num_samples, num_bins, bin_upper, list_slack):
    generator = torch.Generator().manual_seed(7)
    labels, ious = torch.zeros(6000, dtype=torch.int8), torch.rand(6000, generator=generator) / 2
    args = (labels, ious, torch.zeros(6000, dtype=torch.int64), torch.tensor([0, 6000]), num_samples, 0.0)
    options = {"num_bins": num_bins, "bin_upper": bin_upper, "seed": torch.tensor(1)}
    expected = ops.bucketed_sample(*args, **options)
    for slack in (16, list_slack):
        with emulated(swept=True, list_slack=slack) as kernels:
            assert_bits_equal(ops.bucketed_sample(*args, **options), expected)
        assert kernels.distrusted == (slack < 0)


def test_list_for_more_bins_than_a_block_counts():
    # 300 bins of some 20 boxes: one of each, and 100 refilled, from a list that is not so long as to hold every box.
    generator = torch.Generator().manual_seed(8)
    labels, ious = torch.zeros(6000, dtype=torch.int8), torch.rand(6000, generator=generator) / 2
    args = (labels, ious, torch.zeros(6000, dtype=torch.int64), torch.tensor([0, 6000]), 400, 0.0)
    expected = ops.bucketed_sample(*args, num_bins=300, seed=torch.tensor(2))
    with emulated("random", swept=True, list_slack=-7) as kernels:
        assert_bits_equal(ops.bucketed_sample(*args, num_bins=300, seed=torch.tensor(2)), expected)
    assert not kernels.distrusted


@pytest.mark.parametrize("bin_upper", [0.5, "max_all", "max_neg"])
@pytest.mark.parametrize("num_bins", [1, 2, 3, 4, 7])
def test_sample_on_the_edges_of_bins(bin_upper, num_bins):
    generator = torch.Generator().manual_seed(num_bins)
    labels = (torch.rand(400, generator=generator) < 0.1).char()
    ious = torch.randint(0, 13, (400,), generator=generator) / 24
    args = (labels, ious, torch.zeros(400, dtype=torch.int64), torch.tensor([0, 150, 400]), 48, 0.25)
    for floor_thr in (-1.0, 0.0, 0.125):
        options = {"bin_upper": bin_upper, "num_bins": num_bins, "floor_thr": floor_thr, "seed": torch.tensor(5)}
        expected = ops.bucketed_sample(*args, **options)
        with emulated("reverse"):
            assert_bits_equal(ops.bucketed_sample(*args, **options), expected)


def test_sample_of_many_images():
    generator = torch.Generator().manual_seed(6)
    sizes = torch.randint(0, 12, (700,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    rows = int(offsets[-1])
    labels = torch.randint(-1, 2, (rows,), generator=generator).char()
    args = (labels, torch.rand(rows, generator=generator), torch.zeros(rows, dtype=torch.int64), offsets, 6, 0.5)
    expected = ops.bucketed_sample(*args, seed=torch.tensor(-1))
    for swept in (False, True):
        with emulated(swept=swept, threads=32):
            assert_bits_equal(ops.bucketed_sample(*args, seed=torch.tensor(-1)), expected)


def test_kernels_launched_by_an_op():
    # As docs/cuda.md adds them up: one for each tensor of offsets, then the kernels themselves.
    boxes, offsets, seed = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(6, 1), torch.tensor([0, 2, 6]), torch.tensor(1)
    labels, ious, matched_idx = torch.zeros(6, dtype=torch.int8), torch.zeros(6), torch.zeros(6, dtype=torch.int64)
    with emulated() as kernels:
        ops.match_boxes(boxes, boxes, None, offsets, [0.3, 0.7], [0, -1, 1], True)
        assert kernels.launches == 1 + 2
        ops.match_boxes(boxes, boxes, offsets, offsets, [0.5], [0, 1], False)
        assert kernels.launches == 2 + 1
        ops.bucketed_sample(labels, ious, matched_idx, offsets, 2, 0.25, seed=seed)
        assert kernels.launches == 1 + 1
    for negative, sweeps in (("random", 2), ("iou_balanced", 3)):
        with emulated(swept=True) as kernels:
            ops.bucketed_sample(labels, ious, matched_idx, offsets, 2, 0.25, negative=negative, seed=seed)
            assert kernels.launches == 1 + sweeps + 1
