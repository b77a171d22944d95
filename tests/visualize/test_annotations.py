"""What is drawn is what the data say: boxes, masks and names, in the same colours each time."""

import numpy as np
from detectron2.structures import BoxMode

from libra_d2.visualize.annotations import draw_annotations

BLACK = np.zeros((80, 120, 3), dtype=np.uint8)


def annotation(x, y, width, height, **values):
    return {"bbox": [x, y, width, height], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0, **values}


def square(x, y, side):
    return {"segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]]}


def painted(*annotations, names=("tree",)):
    return draw_annotations(BLACK, annotations, names).max(2) > 20


def test_boxes_are_outlined_and_masks_are_filled():
    box, mask = annotation(10, 10, 40, 60), annotation(70, 20, 40, 40, **square(70, 20, 40))
    found = painted(box, mask)
    assert found[40, [10, 50]].all(), "two sides of the box"
    assert not found[40, 15:45].any()
    assert found[30:55, 75:105].mean() > 0.9
    assert not found[:, 56:64].any()
    assert np.array_equal(draw_annotations(BLACK, [box], ["tree"]), draw_annotations(BLACK, [box], ["tree"]))


def test_annotations_with_and_without_a_mask_may_be_mixed_and_keypoints_are_no_matter():
    mask = annotation(70, 20, 40, 40, **square(70, 20, 40))
    box = annotation(10, 10, 40, 60, keypoints=[1, 2, 2])
    assert np.array_equal(painted(mask, box)[:, 62:], painted(box, mask)[:, 62:])
    assert painted(mask, box)[40, [10, 50]].all()


def test_the_name_is_written():
    box = annotation(10, 10, 40, 60)
    short, long = painted(box, names=["a"]), painted(box, names=["a long name"])
    assert long.sum() > short.sum()
    assert painted({**box, "iscrowd": 1}, names=["a"]).sum() > short.sum()
    assert not painted().any()
