"""The compiled core against the reference in pure torch, bit for bit, on what is too large for the slow oracles."""

import os
import subprocess
import sys

import pytest
import torch

from libra_d2 import ops
from libra_d2.ops import _core, _reference

pytestmark = pytest.mark.skipif(ops.backend() != "native", reason=_core.status())
CORE = torch.ops.libra_d2
SEED = torch.tensor(-(2**63))


def assert_same(args, op):
    for one, other in zip(getattr(CORE, op)(*args), getattr(_reference, op)(*args), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def random_boxes(count, generator):
    corner = torch.rand(count, 2, generator=generator) * 900
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 200], dim=1)
    boxes[::7] = boxes[::7].round()  # ties
    boxes[::11, 2:] = boxes[::11, :2]  # empty
    boxes[5::97, 1] = float("nan")
    boxes[3::89, 2] = float("inf")
    return boxes


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(("rows", "num_gts"), [(1, 1), (127, 5), (129, 64), (1000, 3), (3000, 257)])
def test_match_boxes_equals_reference(rows, num_gts, low_quality):
    generator = torch.Generator().manual_seed(rows)
    boxes, gts = random_boxes(rows, generator), random_boxes(num_gts, generator)
    gts[: num_gts // 3] = boxes[:1].nan_to_num() if rows < 3 else boxes[: num_gts // 3].nan_to_num(posinf=500.0)
    scheme = ([0.3, 0.3, 0.6], [0, 1, -1, 1], low_quality)
    gt_offsets = torch.tensor([0, num_gts // 2, num_gts // 2, num_gts])
    box_offsets = torch.tensor([0, 0, rows // 3, rows])
    assert_same((boxes, gts, box_offsets, gt_offsets, *scheme), "match_boxes")
    assert_same((boxes, gts, None, gt_offsets, *scheme), "match_boxes")


def test_match_boxes_finds_every_low_quality_match_among_neighbours():
    # Identical small ground truths inside many identical anchors: all of them tie, in tiles far apart.
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).repeat(700, 1)
    boxes[1::2] += torch.tensor([500.0, 0.0, 500.0, 0.0])
    gts = torch.tensor([[4.0, 4.0, 8.0, 8.0], [600.0, 600.0, 610.0, 610.0], [4.0, 4.0, 8.0, 8.0]])
    *_, label = CORE.match_boxes(boxes, gts, None, torch.tensor([0, 3]), [0.3, 0.7], [0, -1, 1], True)
    assert label[0].tolist() == [1, 0] * 350


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 333])
def test_batched_iou_equals_reference(rows):
    generator = torch.Generator().manual_seed(rows)
    boxes, gts = random_boxes(rows, generator), random_boxes(50, generator)
    args = (boxes, gts, torch.tensor([0, rows // 2, rows]), torch.tensor([0, 33, 50]))
    numel = (rows // 2) * 33 + (rows - rows // 2) * 17
    assert torch.equal(CORE.batched_iou(*args, numel), _reference.batched_iou(*args, numel))


def labelled(rows, generator, low=-1):
    labels = torch.randint(low, 2, (rows,), generator=generator).char()
    ious = torch.rand(rows, generator=generator).pow(4)
    ious[::5] = 0.0
    ious[3::50] = float("nan")
    matched_idx = torch.randint(0, 40, (rows,), generator=generator)
    return labels, ious, matched_idx


@pytest.mark.parametrize("positive", ["instance_balanced", "random"])
@pytest.mark.parametrize(
    "rest",
    [
        ("random", 3, "value", 0.5, -1.0, 0.0, -1.0),
        ("iou_balanced", 3, "value", 0.5, -1.0, 0.0, -1.0),
        ("iou_balanced", 7, "max_all", 0.0, 0.0, 0.25, -1.0),
        ("iou_balanced", 16, "max_neg", 0.0, 0.01, 0.5, 2.0),
        ("iou_balanced", 17, "value", 0.3, 0.05, 1.0, 3.5),
        ("iou_balanced", 5000, "value", 0.9, -1.0, 0.1, -1.0),
    ],
)
def test_bucketed_sample_equals_reference(positive, rest):
    generator = torch.Generator().manual_seed(4)
    labels, ious, matched_idx = labelled(30_000, generator)
    offsets = torch.tensor([0, 2000, 2000, 2700, 30_000])
    args = (labels, ious, matched_idx, offsets, SEED, 512, 0.25, positive, *rest)
    assert_same(args, "bucketed_sample")


def test_bucketed_sample_takes_any_matched_idx_and_any_iou():
    # No matcher gives such indices and IoUs, but none may crash or make the backends differ.
    generator = torch.Generator().manual_seed(8)
    labels, ious, matched_idx = labelled(4000, generator)
    matched_idx[::3] = torch.randint(-(2**62), 2**62, matched_idx[::3].shape, generator=generator)
    matched_idx[:2] = torch.tensor([-(2**63), 2**63 - 1])
    args = (torch.ones_like(labels), ious, torch.full_like(matched_idx, 2**63 - 1), torch.tensor([0, 4000]), SEED)
    assert_same((*args, 256, 0.25, "instance_balanced", "random", 3, "value", 0.5, -1.0, 0.0, -1.0), "bucketed_sample")
    for odd in (float("inf"), -float("inf"), -3.0, 1e30):
        ious[int(abs(hash(odd))) % 7 :: 9] = odd
        for upper in ("value", "max_all", "max_neg"):
            rest = ("instance_balanced", "iou_balanced", 3, upper, 0.5, -1.0, 0.0, -1.0)
            assert_same((labels, ious, matched_idx, torch.tensor([0, 4000]), SEED, 256, 0.25, *rest), "bucketed_sample")


def test_bucketed_sample_equals_reference_on_rpn_sizes():
    generator = torch.Generator().manual_seed(1)
    labels, ious, matched_idx = labelled(120_000, generator, low=0)
    labels[torch.rand(120_000, generator=generator) < 0.99] = 0
    for negative in ("random", "iou_balanced"):
        rest = ("random", negative, 3, "value", 0.5, -1.0, 0.0, -1.0)
        offsets = torch.tensor([0, 60_000, 120_000])
        assert_same((labels, ious, matched_idx, offsets, SEED, 256, 0.5, *rest), "bucketed_sample")


def test_threads_do_not_change_results():
    generator = torch.Generator().manual_seed(2)
    boxes, gts = random_boxes(20_000, generator), random_boxes(90, generator)
    match = (boxes, gts, None, torch.tensor([0, 40, 90]), [0.3, 0.7], [0, -1, 1], True)
    labels, ious, matched_idx = labelled(20_000, generator)
    sample = (labels, ious, matched_idx, torch.arange(11) * 2000, SEED, 512, 0.25)
    sample += ("instance_balanced", "iou_balanced", 3, "value", 0.5, -1.0, 0.0, -1.0)
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append([*CORE.match_boxes(*match), *CORE.bucketed_sample(*sample)])
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


NEEDS_AVX2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="without AVX2 torch would die of what it is told to use",
)


@pytest.mark.parametrize("capability", ["default", pytest.param("avx2", marks=NEEDS_AVX2)])
def test_every_instruction_set_gives_the_same_bits(capability):
    # This process uses the best that the machine has; torch's own variable lowers it.
    code = """
import ctypes
import torch
from tests.ops import test_native as t
t.test_match_boxes_equals_reference(3000, 257, True)
t.test_match_boxes_equals_reference(129, 64, False)
t.test_batched_iou_equals_reference(333)
t.test_bucketed_sample_equals_reference("instance_balanced", ("iou_balanced", 7, "max_all", 0.0, 0.0, 0.25, -1.0))
core = ctypes.CDLL([path for path in torch.ops.loaded_libraries if path.endswith("_core_cpu.so")][0])
core.libra_d2_instruction_set.restype = ctypes.c_char_p
print(torch.backends.cpu.get_cpu_capability(), core.libra_d2_instruction_set().decode())
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [capability.upper()] * 2
