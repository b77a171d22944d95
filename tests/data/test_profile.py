"""The page about a data set: each of its lines on data whose answer is known."""

import pytest

from libra_d2.config.files import load_config
from libra_d2.data.profile import profile


def content(images, classes=("a", "b")):
    """COCO's json of images with (width, height, [(x, y, width, height, class), ...])."""
    rows = [(i, *box) for i, (_, _, boxes) in enumerate(images) for box in boxes]
    return {
        "images": [{"id": i, "width": w, "height": h, "file_name": f"{i}.jpg"} for i, (w, h, _) in enumerate(images)],
        "categories": [{"id": 7 - i, "name": name} for i, name in enumerate(reversed(classes))],  # not in order
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "category_id": 8 - len(classes) + c,
            }
            for n, (i, x, y, w, h, c) in enumerate(rows)
        ],
    }


def config(*opts):
    return load_config("quickstart/libra_faster_rcnn_trees.yaml", ["INPUT.MIN_SIZE_TRAIN", "(0,)", *map(str, opts)])


def of(images, *opts, **options):
    found = profile(content(images, **options), config(*opts))
    return dict(found.findings), dict(found.settings)


def test_images_objects_and_classes_are_counted():
    many = [(10.0 * i, 10.0 * i, 8, 8, 0) for i in range(6)]
    findings, settings = of(
        [(320, 200, [*many, (0, 0, 90, 90, 1)]), (320, 240, [(0, 0, 9, 9, 0)]), (300, 240, [])], "SOLVER.MAX_ITER", 90
    )
    assert findings["images"] == (
        "3 of 320 x 240 px (median), widths 300 to 320, heights 200 to 240; trained at 1.00 times their size; "
        "1 without objects"
    )
    assert findings["objects"] == "8; an image has 1 (median), 6 (95 %), 7 (most)"
    assert findings["classes"] == "2: a 87.5 %, b 12.5 %"
    assert findings["schedule"] == "90 iterations of 2 images pass over the data 60.0 times"
    assert "DATALOADER.FILTER_EMPTY_ANNOTATIONS False" in settings


def test_sizes_are_those_that_training_sees():
    images = [(200, 100, [(0, 0, 20, 40, 0)])]
    assert of(images)[0]["sizes"].startswith("28 px a side as trained (median)")
    assert of(images)[0]["shapes"] == "height by width 2.00 (median), 2.00 to 2.00 (5 to 95 %)"
    findings = of(images, "INPUT.MIN_SIZE_TRAIN", "(300,)", "INPUT.MAX_SIZE_TRAIN", 400)[0]
    assert findings["sizes"].startswith("57 px a side as trained (median)")  # twice as large: 400 px is the limit
    assert "trained at 2.00 times" in findings["images"]
    assert findings[""] == "COCO's small, medium and large: 100, 0 and 0 %"


def test_more_objects_than_detections_are_kept_asks_for_room():
    images = [(400, 400, [(3.0 * i, 0, 2, 2, 0) for i in range(120)])]
    assert of(images)[1].keys() >= {"TEST.DETECTIONS_PER_IMAGE 200"}
    assert of(images, "MODEL.RPN.POST_NMS_TOPK_TEST", 150)[1].keys() >= {"MODEL.RPN.POST_NMS_TOPK_TEST 400"}
    assert not of(images, "TEST.DETECTIONS_PER_IMAGE", 120)[1].keys() & {"TEST.DETECTIONS_PER_IMAGE 200"}


@pytest.mark.parametrize(("other", "hidden"), [(0, "33.3 %"), (1, "0.0 %")])
def test_objects_that_nms_would_take_for_one_are_of_one_class(other, hidden):
    findings, settings = of([(100, 100, [(0, 0, 40, 40, 0), (4, 0, 40, 40, other), (60, 60, 30, 30, 0)])])
    assert findings["crowding"].startswith(f"{hidden} overlap another object of their class by an IoU above 0.5")
    assert ("MODEL.ROI_HEADS.NMS_THRESH_TEST 0.6" in settings) == (other == 0)


def test_anchors_that_are_far_too_large_are_advised_against():
    """On p2, whose anchors lie 4 px apart, an 8 px object that is centred on one is an anchor of half the size."""
    images = [(320, 320, [(32.0 * i, 64, 8, 8, 0) for i in range(1, 9)])]
    findings, settings = of(images)
    assert findings["anchors"].startswith(
        "of 16 to 256 px: the best one of an object has an IoU of 0.25 in the mean, 100 %"
    )
    assert 'MODEL.ANCHOR_GENERATOR.SIZES "[[8], [16], [32], [64], [128]]"' in settings
    fitting = of(images, "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32], [64], [128]]")
    assert fitting[0]["anchors"].endswith(" 0 % of the objects have none of 0.5")
    assert not any(setting.startswith("MODEL.ANCHOR") for setting in fitting[1])


def test_anchors_without_an_object_are_the_share_of_easy_negatives():
    everywhere = of([(320, 320, [(0, 0, 320, 320, 0)])])[0]["negatives"]
    assert everywhere == "0.0 % of the anchors touch no object"
    corner = of([(320, 320, [(0, 0, 8, 8, 0)])])[0]["negatives"]
    assert 90 < float(corner.split()[0]) < 100


@pytest.mark.parametrize("images", [[], [(100, 80, [])]])
def test_nothing_is_described_as_such(images):
    findings, settings = of(images)
    assert findings.keys() == ({"images", "objects", "classes", "schedule"} if images else set())
    assert bool(str(profile(content(images), config()))) == bool(images)


def test_retinanet_has_its_own_levels():
    cfg = load_config("libra_retinanet_R_50_FPN_1x.yaml", ["INPUT.MIN_SIZE_TRAIN", "(0,)"])
    findings = dict(profile(content([(320, 320, [(0, 0, 64, 64, 0)])]), cfg).findings)
    assert findings["anchors"].startswith("of 32 to 812.749 px")
