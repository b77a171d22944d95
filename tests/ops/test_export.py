"""torch.export takes the ops: the program serves other numbers of boxes and images, and still does when saved."""

import io

import pytest
import torch
from torch import nn
from torch.export import Dim

from libra_d2 import ops

OPEN = {0: Dim.DYNAMIC}  # the first dimension may be any


class Match(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared = shared

    def forward(self, boxes, gt_boxes, box_offsets, gt_offsets):
        box_offsets = None if self.shared else box_offsets
        return ops.match_boxes(boxes, gt_boxes, box_offsets, gt_offsets, [0.3, 0.7], [0, -1, 1], True)


class Iou(nn.Module):
    def forward(self, boxes, gt_boxes, box_offsets, gt_offsets):
        return ops.batched_iou(boxes, gt_boxes, box_offsets, gt_offsets)


class Sample(nn.Module):
    def forward(self, labels, ious, matched_idx, offsets, seed=None):
        return ops.bucketed_sample(labels, ious, matched_idx, offsets, 16, 0.25, seed=seed)


def batch(images, boxes, objects):
    """Boxes and ground truths of a batch, as many in each image, and their offsets."""
    generator = torch.Generator().manual_seed(boxes)
    packed = []
    for rows in (images * boxes, images * objects):
        corners = 50 * torch.rand(rows, 2, generator=generator)
        packed.append(torch.cat([corners, corners + 40 * torch.rand(rows, 2, generator=generator)], dim=1))
    return *packed, torch.arange(images + 1) * boxes, torch.arange(images + 1) * objects


def labelled(images, boxes, objects):
    arguments = batch(images, boxes, objects)
    matched_idx, ious, labels = Match(shared=False)(*arguments)
    return labels, ious, matched_idx, arguments[2]


def exported(module, arguments, shapes):
    """The exported program, saved and loaded."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False), file)
    file.seek(0)
    return torch.export.load(file).module()


def equal(found, expected):
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("shared", [False, True], ids=["boxes of each image", "shared boxes"])
def test_match_boxes(shared):
    program = exported(Match(shared), batch(2, 50, 3), (OPEN,) * 4)
    for arguments in (batch(2, 50, 3), batch(3, 71, 5)):
        assert equal(program(*arguments), Match(shared)(*arguments))


def test_batched_iou_for_the_number_of_images_that_it_was_exported_with():
    program = exported(Iou(), batch(2, 50, 3), (OPEN, OPEN, None, None))
    for arguments in (batch(2, 50, 3), batch(2, 71, 5)):
        assert equal(program(*arguments), Iou()(*arguments))


def test_bucketed_sample():
    program = exported(Sample(), (*labelled(2, 50, 3), torch.tensor(1)), (*(OPEN,) * 4, None))
    for arguments, seed in ((labelled(2, 50, 3), 1), (labelled(3, 71, 5), 2)):
        found = program(*arguments, torch.tensor(seed))
        assert equal(found, Sample()(*arguments, torch.tensor(seed)))
        assert not equal(found, program(*arguments, torch.tensor(seed + 1)))


def test_bucketed_sample_draws_its_seed_in_the_program():
    program = exported(Sample(), labelled(2, 50, 3), (OPEN,) * 4)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(program(*labelled(3, 71, 5)))
        torch.manual_seed(seed)
        assert equal(drawn[-1], Sample()(*labelled(3, 71, 5)))
    assert not equal(*drawn)
