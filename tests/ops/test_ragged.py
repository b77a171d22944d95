"""Packing the tensors of a batch's images, and telling whose a row is."""

import pytest
import torch

from libra_d2.ops.ragged import image_of_row, pack


def test_pack_and_image_of_row_of_ragged_images():
    parts = [torch.rand(2, 4), torch.rand(0, 4), torch.rand(3, 4)]
    packed, offsets = pack(parts)
    assert torch.equal(packed, torch.cat(parts))
    assert (offsets.tolist(), offsets.dtype, offsets.device.type) == ([0, 2, 2, 5], torch.int64, "cpu")
    image = image_of_row(offsets, packed)
    assert (image.tolist(), image.dtype) == ([0, 0, 2, 2, 2], torch.int64)


def test_pack_of_nothing():
    packed, offsets = pack([torch.empty(0)])
    assert (packed.shape, offsets.tolist()) == ((0,), [0, 0])
    assert image_of_row(offsets, packed).tolist() == []
    with pytest.raises(ValueError, match="pack: expected at least one tensor, got none"):
        pack([])


def test_image_of_row_forces_bad_offsets_into_range():
    rows = torch.empty(4)
    assert image_of_row(torch.tensor([1, 2, 3]), rows).tolist() == [0, 0, 1, 1]
    assert image_of_row(torch.tensor([0]), rows).tolist() == [0, 0, 0, 0]


def test_image_of_row_asks_no_device_for_values():
    assert image_of_row(torch.tensor([0, 2, 4]), torch.empty(4, 4, device="meta")).device.type == "meta"
