"""match_boxes and batched_iou against hand-worked examples, Detectron2 and the slow oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_d2 import ops
from libra_d2.ops import _reference
from libra_d2.ops._reference import match as reference_match
from tests.ops.backends import BACKENDS, using
from tests.ops.ragged_batches import box_batches, box_tensor, pack, strided
from tests.oracles.matching import match_image, pair_iou

NO_BOXES = torch.empty(0, 4)
SCHEMES = [([0.5], [0, 1]), ([0.3, 0.7], [0, -1, 1]), ([0.25, 0.25, 0.6], [-1, 1, 0, 1]), ([1 / 3], [0, 1])]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_match_boxes_three_boxes_by_hand(backend):
    # Ground truths 10 x 10 at x = 0 and x = 10; the boxes overlap them by 10/10, 5/15 (both: a tie), and 1/19.
    gts = box_tensor([[0, 0, 10, 10], [10, 0, 20, 10]])
    boxes = box_tensor([[0, 0, 10, 10], [5, 0, 15, 10], [19, 0, 29, 10]])
    with using(backend):
        index, iou, label = ops.match_boxes(
            boxes, gts, torch.tensor([0, 3]), torch.tensor([0, 2]), [0.3, 0.7], [0, -1, 1]
        )
        *_, low_quality = ops.match_boxes(boxes, gts, None, torch.tensor([0, 2]), [0.3, 0.7], [0, -1, 1], True)
    assert index.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(iou.numpy(), np.float32([100, 50, 10]) / np.float32([100, 150, 190]))
    assert label.tolist() == [1, -1, 0]
    assert low_quality.tolist() == [[1, 1, 0]]  # the second box is the best that the second ground truth has


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
@settings(deadline=None, max_examples=150)
@given(batch=box_batches(), scheme=st.sampled_from(SCHEMES), low_quality=st.booleans(), with_gaps=st.booleans())
def test_match_boxes_equals_oracle(backend, shared, batch, scheme, low_quality, with_gaps):
    boxes, box_offsets = pack([boxes for boxes, _ in batch], NO_BOXES)
    gts, gt_offsets = pack([gts for _, gts in batch], NO_BOXES)
    if shared:
        batch, box_offsets = [(boxes, gts) for _, gts in batch], None
    expected = [match_image(b.numpy(), g.numpy(), *scheme, low_quality) for b, g in batch]
    if with_gaps:
        boxes, gts, gt_offsets = strided(boxes), strided(gts), strided(gt_offsets)
    with using(backend):
        actual = ops.match_boxes(boxes, gts, box_offsets, gt_offsets, *scheme, low_quality)
    for k, dtype in enumerate((torch.int64, torch.float32, torch.int8)):
        rows = [torch.tensor(np.array(image[k])).to(dtype) for image in expected]
        empty = torch.empty((0, len(boxes)) if shared else 0, dtype=dtype)
        assert_equal([actual[k]], [torch.stack(rows) if shared and rows else torch.cat([*rows, empty])])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=150)
@given(batch=box_batches(finite=True), scheme=st.sampled_from(SCHEMES), low_quality=st.booleans())
def test_match_boxes_equals_detectron2(backend, batch, scheme, low_quality):
    matcher_module = pytest.importorskip("detectron2.modeling.matcher")
    structures = pytest.importorskip("detectron2.structures")
    boxes, box_offsets = pack([boxes for boxes, _ in batch], NO_BOXES)
    gts, gt_offsets = pack([gts for _, gts in batch], NO_BOXES)
    with using(backend):
        actual = ops.match_boxes(boxes, gts, box_offsets, gt_offsets, *scheme, low_quality)
    matcher = matcher_module.Matcher(*scheme)
    indices, ious, labels = [], [], []
    for image_boxes, image_gts in batch:
        matrix = structures.pairwise_iou(structures.Boxes(image_gts), structures.Boxes(image_boxes))
        index, label = matcher(matrix)
        if low_quality and matrix.numel():
            # The one deviation: a ground truth that no box overlaps makes no low-quality match.
            matcher.set_low_quality_matches_(label, matrix[matrix.amax(dim=1) > 0])
        indices.append(index)
        ious.append(matrix.amax(dim=0) if len(image_gts) else torch.zeros(len(image_boxes)))
        labels.append(label)
    expected = [
        torch.cat([torch.empty(0, dtype=dtype), *parts])
        for dtype, parts in ((torch.int64, indices), (torch.float32, ious), (torch.int8, labels))
    ]
    assert_equal(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_match_boxes_ground_truth_without_overlap_differs_from_detectron2(backend):
    matcher_module = pytest.importorskip("detectron2.modeling.matcher")
    structures = pytest.importorskip("detectron2.structures")
    boxes, gts = box_tensor([[0, 0, 2, 2], [4, 4, 6, 6]]), box_tensor([[100, 100, 110, 110]])
    with using(backend):
        *_, label = ops.match_boxes(
            boxes, gts, torch.tensor([0, 2]), torch.tensor([0, 1]), [0.3, 0.7], [0, -1, 1], True
        )
    matrix = structures.pairwise_iou(structures.Boxes(gts), structures.Boxes(boxes))
    theirs = matcher_module.Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(matrix)[1]
    assert (label.tolist(), theirs.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low_quality", [False, True])
def test_match_boxes_equals_detectron2_on_anchor_sized_input(backend, low_quality):
    # Large enough for many chunks and for the tail of every vector; neighbours tie, as anchors do.
    matcher_module = pytest.importorskip("detectron2.modeling.matcher")
    structures = pytest.importorskip("detectron2.structures")
    generator = torch.Generator().manual_seed(3)
    y, x, size = torch.meshgrid(torch.arange(0, 320, 8), torch.arange(0, 320, 8), torch.tensor([16, 48, 64]))
    centre = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
    half = size.reshape(-1, 1) / 2
    anchors = torch.cat([centre - half, centre + half], dim=1)[:-1]
    corner = torch.rand(71, 2, generator=generator) * 300
    gts = torch.cat([corner, corner + 4 + torch.rand(71, 2, generator=generator) * 90], dim=1).round()
    gts[-1] = torch.tensor([900.0, 900.0, 910.0, 910.0])
    gt_offsets = torch.tensor([0, 40, 40, 71])
    with using(backend):
        actual = ops.match_boxes(anchors, gts, None, gt_offsets, [0.3, 0.7], [0, -1, 1], low_quality)
    matcher = matcher_module.Matcher([0.3, 0.7], [0, -1, 1])
    for n in range(3):
        own = gts[gt_offsets[n] : gt_offsets[n + 1]]
        matrix = structures.pairwise_iou(structures.Boxes(own), structures.Boxes(anchors))
        index, label = matcher(matrix)
        iou = matrix.amax(dim=0) if len(own) else torch.zeros(len(anchors))
        if low_quality and len(own):
            matcher.set_low_quality_matches_(label, matrix[matrix.amax(dim=1) > 0])
        assert_equal([output[n] for output in actual], [index, iou, label])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=100)
@given(batch=box_batches())
def test_batched_iou_equals_oracle(backend, batch):
    boxes, box_offsets = pack([boxes for boxes, _ in batch], NO_BOXES)
    gts, gt_offsets = pack([gts for _, gts in batch], NO_BOXES)
    with using(backend):
        matrices = ops.batched_iou(strided(boxes), gts, box_offsets, gt_offsets)
    assert len(matrices) == len(batch)
    assert len({matrix.untyped_storage().data_ptr() for matrix in matrices if matrix.numel()}) <= 1
    for matrix, (image_boxes, image_gts) in zip(matrices, batch, strict=True):
        expected = [[pair_iou(box, gt) for gt in image_gts.numpy()] for box in image_boxes.numpy()]
        assert matrix.shape == (len(image_boxes), len(image_gts))
        assert matrix.tolist() == expected


@settings(deadline=None, max_examples=100)
@given(batch=box_batches(), shared=st.booleans(), low_quality=st.booleans())
def test_reference_gives_the_same_whether_it_reads_offsets_or_not(batch, shared, low_quality):
    # The way of the reference for offsets on a device, where reading them would synchronise.
    boxes, box_offsets = pack([boxes for boxes, _ in batch], NO_BOXES)
    gts, gt_offsets = pack([gts for _, gts in batch], NO_BOXES)
    args = (boxes, gts, None if shared else box_offsets, gt_offsets)
    outputs = []
    for way in (reference_match._match_by_image, reference_match._match_masked):
        shape = (len(batch), len(boxes)) if shared else (len(boxes),)
        into = [torch.zeros(shape, dtype=dtype) for dtype in (torch.int64, torch.float32, torch.bool)]
        way(*args, into[0], into[1], into[2] if low_quality else None)
        outputs.append(into)
    assert_equal(*outputs)


def test_reference_never_holds_the_matrix():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return result

    boxes, gts = torch.rand(3000, 4).cumsum(1), torch.rand(1000, 4).cumsum(1)
    with Largest() as largest:
        _reference.match_boxes(boxes, gts, None, torch.tensor([0, 1000]), [0.5], [0, 1], True)
    assert largest.numel < 3000 * 1000 / 20
