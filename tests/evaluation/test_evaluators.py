"""An evaluator is the same whether the data were loaded before it was made or not."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from libra_d2.config import get_cfg
from libra_d2.data import register_datasets
from libra_d2.evaluation import build_evaluator
from tests.engine.tiny import CATEGORIES, write_dataset


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    json_file, images = write_dataset(tmp_path / "data", 2)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.MODEL.LIBRA.DATA.VAL_JSON, cfg.MODEL.LIBRA.DATA.VAL_IMAGES = str(json_file), str(images)
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = [c["name"] for c in sorted(CATEGORIES, key=lambda c: c["id"])]
    register_datasets(cfg)
    yield cfg
    DatasetCatalog.remove("libra_val")
    MetadataCatalog.remove("libra_val")


@pytest.mark.parametrize("loaded", [False, True])
def test_a_json_that_can_be_evaluated_is_not_copied(cfg, loaded):
    if loaded:
        DatasetCatalog.get("libra_val")
    evaluator = build_evaluator(cfg, "libra_val")
    assert MetadataCatalog.get("libra_val").json_file == cfg.MODEL.LIBRA.DATA.VAL_JSON
    assert sorted(evaluator._coco_api.cats) == [3, 7, 11]


@pytest.mark.parametrize("loaded", [False, True])
def test_one_that_cannot_is(cfg, loaded, tmp_path):
    file = tmp_path / "data" / "annotations.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["area"]
    file.write_text(json.dumps(content))
    if loaded:
        DatasetCatalog.get("libra_val")
    evaluator = build_evaluator(cfg, "libra_val")
    assert MetadataCatalog.get("libra_val").json_file == str(tmp_path / "out/inference/libra_val_coco_format.json")
    assert sorted(evaluator._coco_api.cats) == [0, 1, 2]
