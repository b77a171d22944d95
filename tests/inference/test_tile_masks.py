"""Masks that are held as parts are those of one large tensor, to whoever asks."""

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from libra_d2.data.random_state import seed_cpu
from libra_d2.inference.drawing import draw_instances
from libra_d2.inference.tile_masks import TileMasks

SIZE = (70, 90)
CORNERS = [(0, 0), (40, 0), (40, 20)]  # x, y


@pytest.fixture(scope="module")
def both():
    """(masks held in parts, the same as bool [N, H, W]), of three tiles of 50 x 50 with two, none and three masks."""
    rng, whole, parts = np.random.default_rng(0), [], []
    for number, (x, y) in zip((2, 0, 3), CORNERS, strict=True):
        tile = torch.zeros(number, 50, 50, dtype=torch.bool)
        for mask in tile:
            top, left = rng.integers(0, 30, 2)
            mask[top : top + 15, left : left + 18] = True
            mask[top + 5, left + 5] = False
        image = torch.zeros(number, *SIZE, dtype=torch.bool)
        image[:, y : y + 50, x : x + 50] = tile
        whole.append(image)
        parts.append(TileMasks.of_tile(tile, x, y, SIZE))
    return TileMasks.cat(parts), torch.cat(whole)


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True, False, False, True, True])])
def test_an_index_gives_what_that_of_a_tensor_gives(both, index):
    masks, whole = both
    assert np.array_equal(masks[index], whole[index])
    assert torch.equal(masks[3], whole[3])
    assert torch.equal(masks[-1], whole[-1])
    assert len(masks) == 5
    assert masks.to("cpu") is masks


def test_none_are_none(both):
    assert np.asarray(both[0][torch.tensor([], dtype=torch.int64)]).shape == (0, *SIZE)


def instances(masks):
    boxes = [[2.0 * i, 3.0 * i, 40 + 5 * i, 50 + 3 * i] for i in range(5)]
    return Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor(boxes)),
        scores=torch.linspace(0.9, 0.5, 5),
        pred_classes=torch.arange(5),
        pred_masks=masks,
    )


def test_cocos_results_are_the_same(both):
    parts, whole = (instances_to_coco_json(instances(masks), 1) for masks in both)
    assert parts == whole
    assert "segmentation" in parts[0]


def drawing(found, draw):
    seed_cpu(0)
    visualizer = Visualizer(np.zeros((*SIZE, 3), dtype=np.uint8))
    draw(visualizer, found)
    return visualizer.output.get_image()


def test_the_drawing_is_the_same(both):
    parts, whole = (instances(masks) for masks in both)
    expected = drawing(whole, Visualizer.draw_instance_predictions)
    assert np.array_equal(drawing(parts, draw_instances), expected)
    assert expected.any()


def test_masks_that_are_too_many_are_drawn_a_part_at_a_time(both, monkeypatch):
    numbers, draw = [], Visualizer.draw_instance_predictions
    monkeypatch.setattr(
        Visualizer, "draw_instance_predictions", lambda self, found: numbers.append(len(found)) or draw(self, found)
    )
    found = instances(both[0])
    by_area = found[found.pred_boxes.area().argsort(descending=True)]
    image = drawing(found, lambda *what: draw_instances(*what, masks_at_once=2 * 70 * 90))
    assert numbers == [2, 2, 1]
    assert np.array_equal(image, drawing(by_area, draw_instances))
