"""The tables are pycocotools' figures."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from libra_d2.evaluation.coco import loaded
from libra_d2.evaluation.coco_tables import coco_tables
from tests.evaluation.scene import coco, random_scene, result


def summary(truth, results, max_detections, category=None):
    evaluation = COCOeval(truth, loaded(truth, results), "bbox")
    evaluation.params.maxDets = [1, 10, max_detections]
    if category is not None:
        evaluation.params.catIds = [category]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.params.maxDets[2] = 100  # summarize() looks for that
        evaluation.eval["params"].maxDets[2] = 100
        evaluation.summarize()
    return [100 * value if value > -1 else float("nan") for value in evaluation.stats[[0, 1, 2, 3, 4, 5, 8]]]


@pytest.mark.parametrize("max_detections", [100, 2])
def test_they_are_those_of_pycocotools(max_detections):
    truth, results = random_scene()
    with contextlib.redirect_stdout(io.StringIO()):
        tables = coco_tables(truth, results, max_detections=max_detections)
        expected = summary(truth, results, max_detections)
        np.testing.assert_allclose(list(tables.overall.values()), expected, rtol=1e-12)
        assert [name for name, _, _ in tables.by_class] == ["cat", "dog", "<owl>"]
        for category, (_, _, figures) in zip((3, 8, 9), tables.by_class, strict=True):
            expected = summary(truth, results, max_detections, category)
            np.testing.assert_allclose(list(figures.values()), expected, rtol=1e-12)
    assert sum(number for _, number, _ in tables.by_class) == sum(not a["iscrowd"] for a in truth.anns.values())
    assert np.isnan(tables.by_class[2][2]["AP"]), "there are no owls"
    assert 0 < np.nansum(tables.precision[0.75]) < np.nansum(tables.precision[0.5]) <= 101


def test_what_is_perfect_has_100():
    box = [10.0, 10.0, 50.0, 40.0]
    tables = coco_tables(coco([(1, 3, box)], 1), [result(1, 3, box, 0.9)])
    assert (tables.overall["AP"], tables.overall["APm"], tables.overall["AR"]) == pytest.approx((100, 100, 100))
    assert np.isnan(tables.overall["APs"])
    np.testing.assert_allclose(tables.precision[0.5], 1)
