"""The names of metrics are those that evaluations give."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import flatten_results_dict
from detectron2.evaluation import COCOEvaluator

from libra_d2.config import get_cfg
from libra_d2.evaluation.metrics import metric_names


@pytest.fixture
def datasets(own_dataset):
    DatasetCatalog.register("rare", list)
    MetadataCatalog.get("rare").set(evaluator_type="lvis", thing_classes=["a", "b"])
    yield
    DatasetCatalog.remove("rare")
    MetadataCatalog.remove("rare")


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("own",), *opts])
    return cfg


def test_they_are_those_of_detectron2s_evaluator(datasets):
    evaluator = COCOEvaluator("own", tasks=("bbox", "segm"), allow_cached_coco=False, use_fast_impl=False)
    evaluator.reset()
    box = {"image_id": 1, "category_id": 0, "bbox": [0, 0, 20, 20], "score": 1.0}
    size = {"size": [64, 96], "counts": "0"}
    evaluator._predictions = [{"image_id": 1, "instances": [{**box, "segmentation": size}]}]
    reported = flatten_results_dict(evaluator.evaluate())
    assert metric_names(config("MODEL.MASK_ON", True)) == list(reported)
    assert metric_names(config()) == [name for name in reported if name.startswith("bbox")]


def test_averages_masks_and_several_data_sets_have_names_of_their_own(datasets):
    cfg = config("MODEL.LIBRA.TRAIN.EMA_DECAY", 0.9)
    assert {"bbox/AP-red", "bbox_EMA/AP-red"} <= set(metric_names(cfg))
    names = metric_names(config("DATASETS.TEST", ("own", "rare")))
    assert {"own/bbox/AP-red", "rare/bbox/APr"} <= set(names)
    assert "rare/bbox/AP-a" not in names
