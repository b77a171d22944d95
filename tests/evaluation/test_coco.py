"""Detectron2's evaluator and ours leave the same figures and files."""

import numpy as np
import pytest
from detectron2.evaluation import COCOEvaluator
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from libra_d2.config import get_cfg
from libra_d2.evaluation import build_evaluator
from libra_d2.evaluation.coco import FasterCOCOEvaluator
from tests.engine.tiny import CATEGORIES

FILE = "coco_instances_results.json"


@pytest.fixture
def truth(own_dataset):
    return COCO(str(own_dataset))


def detections(truth, copies):
    """Several of each object, more or less near it, some of another class, with scores that tie."""
    rng = np.random.default_rng(0)
    places = {category["id"]: i for i, category in enumerate(CATEGORIES)}
    predictions = []
    for image in truth.imgs.values():
        instances = []
        for annotation in truth.imgToAnns[image["id"]] * copies:
            x, y, w, h = (int(v) for v in np.array(annotation["bbox"]) + rng.integers(-4, 5, 4))
            mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
            mask[max(y, 0) : y + max(h, 1), max(x, 0) : x + max(w, 1)] = 1
            rle = mask_util.encode(mask)
            rle["counts"] = rle["counts"].decode()
            category = places[annotation["category_id"]] if rng.random() < 0.8 else int(rng.integers(3))
            box = [float(x), float(y), float(max(w, 1)), float(max(h, 1))]
            score = float(rng.integers(1, 20)) / 20
            instance = {"image_id": image["id"], "category_id": category, "bbox": box, "score": score}
            instances.append({**instance, "segmentation": rle})
        predictions.append({"image_id": image["id"], "instances": instances})
    return predictions


def evaluated(kind, predictions, folder, limit, **arguments):
    evaluator = kind("own", output_dir=str(folder), max_dets_per_image=limit, allow_cached_coco=False, **arguments)
    evaluator.reset()
    evaluator._predictions = predictions
    return evaluator.evaluate(), (folder / FILE).read_bytes()


@pytest.mark.parametrize("limit", [None, 5, 300])
def test_figures_and_files_are_those_of_detectron2(truth, tmp_path, limit):
    theirs = evaluated(COCOEvaluator, detections(truth, 60), tmp_path / "theirs", limit, use_fast_impl=False)
    ours = evaluated(FasterCOCOEvaluator, detections(truth, 60), tmp_path / "ours", limit)
    assert ours[1] == theirs[1]
    assert list(ours[0]) == ["bbox", "segm"]
    for task in ours[0]:
        assert list(ours[0][task]) == list(theirs[0][task])
        # pycocotools adds the smallest of numbers to each divisor
        np.testing.assert_allclose(list(ours[0][task].values()), list(theirs[0][task].values()), rtol=1e-12)
    assert 0 < ours[0]["bbox"]["AP"] < 100


def test_no_detection_at_all_is_no_figure(truth, tmp_path):
    nothing = [{"image_id": image, "instances": []} for image in truth.imgs]
    figures, file = evaluated(FasterCOCOEvaluator, nothing, tmp_path, None)
    assert np.isnan(figures["bbox"]["AP"])
    assert file == b"[]"


def test_a_config_that_keeps_more_counts_more(truth, tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "TEST.DETECTIONS_PER_IMAGE", 300])
    assert build_evaluator(cfg, "own")._max_dets_per_image[-1] == 300
