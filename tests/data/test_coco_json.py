import json
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from torch import tensor

from libra_d2.config import get_cfg
from libra_d2.data import complete_config, register_datasets
from libra_d2.data.class_names import TrainedClasses, publish_class_names, thing_classes
from tests.engine.tiny import write_dataset


@pytest.fixture
def files(tmp_path):
    yield write_dataset(tmp_path / "train"), write_dataset(tmp_path / "val", 3, seed=1)
    for name in ("libra_train", "libra_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        if name in MetadataCatalog:
            MetadataCatalog.remove(name)


def config(files, **data):
    cfg = get_cfg()
    (train, train_images), (val, val_images) = files
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.MODEL.LIBRA.DATA.TRAIN_IMAGES = str(train), str(train_images)
    cfg.MODEL.LIBRA.DATA.VAL_JSON, cfg.MODEL.LIBRA.DATA.VAL_IMAGES = str(val), str(val_images)
    for key, value in data.items():
        cfg.MODEL.LIBRA.DATA[key] = value
    return cfg


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_classes_come_from_the_json_in_the_order_of_their_ids(files):
    cfg = config(files)
    complete_config(cfg)
    assert cfg.MODEL.LIBRA.DATA.CLASS_NAMES == ["green", "red", "blue"]
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES) == (3, 3)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("libra_train",), ("libra_val",))


def test_given_class_names_decide_the_order(files):
    cfg = config(files, CLASS_NAMES=["blue", "green", "red", "unseen"])
    complete_config(cfg)
    register_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    raw = json.loads(files[0][0].read_text())
    name_of = {c["id"]: c["name"] for c in raw["categories"]}
    expected = {a["id"]: name_of[a["category_id"]] for a in raw["annotations"]}
    labels = [a["category_id"] for record in DatasetCatalog.get("libra_train") for a in record["annotations"]]
    assert [cfg.MODEL.LIBRA.DATA.CLASS_NAMES[label] for label in labels] == [expected[i] for i in sorted(expected)]


def test_a_given_number_of_classes_is_kept_when_larger_and_refused_when_smaller(files):
    cfg = config(files)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    complete_config(cfg, ["MODEL.ROI_HEADS.NUM_CLASSES"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 5
    assert cfg.MODEL.LIBRA.DATA.CLASS_NAMES == ["green", "red", "blue", "class 3", "class 4"]
    cfg = config(files)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    with pytest.raises(
        ValueError, match=r"MODEL.ROI_HEADS.NUM_CLASSES is 2, but there are 3 classes: green, red, blue"
    ):
        complete_config(cfg, ["MODEL.ROI_HEADS.NUM_CLASSES"])


def test_the_completed_config_needs_no_json_any_more(files):
    cfg = config(files)
    complete_config(cfg)
    files[0][0].unlink()
    again = get_cfg()
    again.merge_from_other_cfg(cfg)
    complete_config(again)
    assert again.dump() == cfg.dump()
    register_datasets(again)
    assert MetadataCatalog.get("libra_val").thing_classes == ["green", "red", "blue"]


def test_without_a_json_nothing_changes():
    cfg = get_cfg()
    before = cfg.dump()
    complete_config(cfg)
    register_datasets(cfg)
    assert cfg.dump() == before


def test_without_a_validation_json_nothing_is_evaluated(files):
    cfg = config(files, VAL_JSON="", VAL_IMAGES="")
    complete_config(cfg)
    assert cfg.DATASETS.TEST == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), 'expected a COCO json file with "categories"'),
        (lambda c: c["categories"].append({"id": 20, "name": "red"}), "expected different category names, got red"),
        (lambda c: c["categories"].append({"id": 20}), "category without"),
        (lambda c: c["categories"].append({"id": "a", "name": "white"}), "expected integers as ids of its categories"),
        (lambda c: c["categories"].append(5), "category without"),
        (lambda c: c.update(categories=5), 'expected a COCO json file with "categories"'),
    ],
)
def test_a_json_without_usable_categories_is_refused(files, change, message):
    edit(files[0][0], change)
    with pytest.raises(ValueError, match=message):
        complete_config(config(files))


def test_what_is_no_json_is_refused(files):
    files[0][0].write_text("<xml>")
    with pytest.raises(ValueError, match="annotations.json: expected a COCO json file"):
        complete_config(config(files))


def test_a_json_without_its_images_is_refused(files):
    with pytest.raises(ValueError, match="--val-json and --val-images .* together"):
        complete_config(config(files, VAL_IMAGES=""))


def test_a_category_that_training_does_not_know_is_refused(files):
    edit(files[1][0], lambda c: c["categories"].append({"id": 20, "name": "white"}))
    cfg = config(files)
    complete_config(cfg)
    register_datasets(cfg)
    with pytest.raises(ValueError, match=r"the categories \['white'\] are not among the classes"):
        DatasetCatalog.get("libra_val")


def test_weights_decide_the_classes_where_a_json_lists_fewer_or_another_order(files):
    trained = TrainedClasses("model.pth", ["blue", "white", "red", "green"])
    cfg = config(files)
    complete_config(cfg, trained=trained)
    assert cfg.MODEL.LIBRA.DATA.CLASS_NAMES == trained.names
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES) == (4, 4)


@pytest.mark.parametrize("names", [[], ["green", "red", "white"]])
def test_classes_that_the_weights_do_not_know_are_refused_with_both_lists(files, names):
    cfg = config(files, CLASS_NAMES=names)
    with pytest.raises(ValueError, match=r"are not among the classes \['green', 'red'\] that model.pth was trained on"):
        complete_config(cfg, trained=TrainedClasses("model.pth", ["green", "red"]))
    with pytest.raises(ValueError, match=rf"lists {re.escape(str(names or ['green', 'red', 'blue']))}"):
        complete_config(cfg, trained=TrainedClasses("model.pth", ["green", "red"]))


def test_a_given_number_of_classes_that_the_weights_do_not_have_is_refused(files):
    for size in (2, 4):
        cfg = config(files)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = size
        with pytest.raises(ValueError, match=f"NUM_CLASSES is {size}, but there are 3 classes"):
            complete_config(cfg, ["MODEL.ROI_HEADS.NUM_CLASSES"], TrainedClasses("model.pth", ["green", "red", "blue"]))


def test_without_a_json_the_classes_are_those_of_the_weights():
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("coco_2017_val",)
    complete_config(cfg, trained=TrainedClasses("model.pth", ["green", "red"]))
    assert (cfg.MODEL.LIBRA.DATA.CLASS_NAMES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (["green", "red"], 2)
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("coco_2017_val",)
    complete_config(cfg, trained=TrainedClasses("model.pth", thing_classes("coco_2017_val")))
    assert cfg.MODEL.LIBRA.DATA.CLASS_NAMES == []  # nothing has to be said


@pytest.mark.parametrize("value", [None, "0", 2])
def test_objects_that_training_would_leave_out_are_refused(files, value):
    edit(files[0][0], lambda c: c["annotations"][0].update(iscrowd=value))
    cfg = config(files)
    complete_config(cfg)
    register_datasets(cfg)
    with pytest.raises(ValueError, match="annotation 1: iscrowd: expected 0 or 1, got"):
        DatasetCatalog.get("libra_train")


def test_data_sets_of_the_command_line_are_kept(files):
    cfg = config(files)
    cfg.DATASETS.TEST = ("libra_train",)
    complete_config(cfg, ["DATASETS.TEST"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("libra_train",), ("libra_train",))


def test_names_may_be_numbers(files, tmp_path):
    for json_file, _ in files:
        edit(json_file, lambda c: [category.update(name=category["id"]) for category in c["categories"]])
    cfg = config(files)
    complete_config(cfg)
    register_datasets(cfg)
    assert cfg.MODEL.LIBRA.DATA.CLASS_NAMES == ["3", "7", "11"]
    assert perfect_ap(cfg, tmp_path) == pytest.approx(100)


def test_registering_again_follows_the_config(files):
    cfg = config(files)
    complete_config(cfg)
    register_datasets(cfg)
    register_datasets(cfg)
    first = MetadataCatalog.get("libra_val")
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["green", "red", "blue", "white"]
    register_datasets(cfg)
    assert MetadataCatalog.get("libra_val").thing_classes == ["green", "red", "blue", "white"]
    assert first.thing_classes == ["green", "red", "blue"]


def perfect_ap(cfg, output_dir):
    """The AP of detections that are the annotations of the validation set."""
    dicts = DatasetCatalog.get("libra_val")
    evaluator = COCOEvaluator("libra_val", output_dir=str(output_dir), allow_cached_coco=False)
    evaluator.reset()
    for record in dicts:
        instances = Instances((record["height"], record["width"]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in record["annotations"])]
        instances.pred_boxes = Boxes(tensor(boxes).float())
        instances.scores = tensor([0.9] * len(boxes))
        instances.pred_classes = tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]["AP"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: None,
        lambda c: [a.pop("area") for a in c["annotations"]],
        lambda c: [a.pop("iscrowd") for a in c["annotations"]],
        lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]],  # COCO takes a match with id 0 for none
        lambda c: c.update(categories=list(reversed(c["categories"]))),
        "utf-8-sig",
        "utf-16",
        lambda c: renumber(c, {7: 1, 3: 2, 11: 0}),  # another order of the same names
        lambda c: c.update(  # a category less than in training
            categories=[k for k in c["categories"] if k["id"] != 7],
            annotations=[a for a in c["annotations"] if a["category_id"] != 7],
        ),
    ],
    ids=[
        "as it is",
        "no area",
        "no iscrowd",
        "id 0",
        "unsorted",
        "byte order mark",
        "UTF-16",
        "other ids",
        "fewer categories",
    ],
)
def test_perfect_detections_have_an_ap_of_100_whatever_the_json_lacks(files, change, tmp_path):
    if isinstance(change, str):
        files[1][0].write_bytes(files[1][0].read_text().encode(change))
    else:
        edit(files[1][0], change)
    cfg = config(files)
    complete_config(cfg)
    register_datasets(cfg)
    assert perfect_ap(cfg, tmp_path) == pytest.approx(100)


def renumber(content, new):
    for category in content["categories"]:
        category["id"] = new[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]


def test_a_model_that_is_built_publishes_the_class_names_of_its_config(files):
    cfg = config(files)
    complete_config(cfg)
    publish_class_names(cfg)
    held = MetadataCatalog.get("libra_val")
    assert held.thing_classes == ["green", "red", "blue"]
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["one", "two"]
    publish_class_names(cfg)
    assert MetadataCatalog.get("libra_val").thing_classes == ["one", "two"]
    assert held.thing_classes == ["green", "red", "blue"]
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["green", "red", "blue"]
    register_datasets(cfg)
    publish_class_names(cfg)
    assert MetadataCatalog.get("libra_val").evaluator_type == "coco"
