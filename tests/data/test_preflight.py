"""What would stop a run hours later is said before it starts."""

import json
import logging

import pytest
from PIL import Image

from libra_d2.checks import UserError
from libra_d2.config import get_cfg
from libra_d2.data import check_datasets, complete_config
from tests.engine.tiny import write_dataset


@pytest.fixture
def files(tmp_path):
    return write_dataset(tmp_path / "train"), write_dataset(tmp_path / "val", 3, seed=1)


def config(files, **model):
    cfg = get_cfg()
    (train, train_images), (val, val_images) = files
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.MODEL.LIBRA.DATA.TRAIN_IMAGES = str(train), str(train_images)
    cfg.MODEL.LIBRA.DATA.VAL_JSON, cfg.MODEL.LIBRA.DATA.VAL_IMAGES = str(val), str(val_images)
    complete_config(cfg)
    for key, value in model.items():
        cfg.MODEL[key] = value
    return cfg


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def each(**values):
    return lambda c: [annotation.update(values) for annotation in c["annotations"]]


def test_sound_data_pass_and_one_line_says_how_long_it_took(files, caplog):
    with caplog.at_level(logging.INFO, logger="libra_d2"):
        check_datasets(config(files), ["TRAIN", "VAL"])
        assert [r.getMessage().split(" in ")[0].rpartition("/")[2] for r in caplog.records] == [
            "annotations.json and its 8 images",
            "annotations.json and its 3 images",
        ]


def test_warnings_are_counted(files, caplog):
    edit(files[0][0], lambda c: c["annotations"].append(dict(c["annotations"][0], id=999)))
    with caplog.at_level(logging.WARNING, logger="libra_d2"):
        check_datasets(config(files), ["TRAIN"])
    assert caplog.messages == [
        f"{files[0][0]}: 1 warnings, `libra-d2 check {files[0][0]} {files[0][1]}` lists them",
    ]


FAULTS = {
    "backslashes": (
        lambda c: [i.update(file_name="x\\" + i["file_name"]) for i in c["images"]],
        "but there is 001.png",
    ),
    "no height": (lambda c: [i.pop("height") for i in c["images"]], "expected a positive integer height"),
    "no id": (lambda c: [a.pop("id") for a in c["annotations"]], "expected an integer id"),
    "no bbox": (lambda c: [a.pop("bbox") for a in c["annotations"]], "expected a bbox"),
    "area": (each(area="9"), "area: expected a number"),
    "category": (each(category_id=77), "there is no category 77"),
    "ids": (each(id=1), "another annotation has the same id"),
    "ignore": (each(ignore=1), 'Detectron2 refuses "ignore"'),
    "iscrowd": (each(iscrowd=None), "iscrowd: expected 0 or 1"),
    "flat polygon": (each(segmentation=[1, 2, 3, 4, 5, 6]), "expected a list of polygons"),
    "no images": (lambda c: c.update(images=[], annotations=[]), 'the list "images" is empty'),
    "image ids": (lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]], "there is no image '1'"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("split", ["TRAIN", "VAL"])
def test_the_errors_of_check_stop_a_run(name, split, files):
    change, what = FAULTS[name]
    file, images = files[split == "VAL"]
    cfg = config(files)
    edit(file, change)
    with pytest.raises(UserError) as caught:
        check_datasets(cfg, ["TRAIN", "VAL"])
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be used: ")
    assert what in message
    assert message.endswith(f"`libra-d2 check {file} {images}` lists all")
    check_datasets(cfg, ["TRAIN" if split == "VAL" else "VAL"])  # the other one is sound


def test_the_first_three_errors_are_named(files):
    cfg = config(files)
    edit(files[1][0], each(iscrowd=None))
    with pytest.raises(UserError, match=r"annotation 1: .*annotation 2: .*annotation 3: .*; and more\. `libra-d2") as e:
        check_datasets(cfg, ["VAL"])
    assert "annotation 4:" not in str(e.value)


def test_validation_images_are_decoded(files):
    cfg = config(files)
    image = files[1][1] / "002.png"
    damaged = bytearray(image.read_bytes())
    damaged[1000] ^= 255
    image.write_bytes(damaged)
    with pytest.raises(UserError, match=r"image 2 \(002.png\): cannot be read"):
        check_datasets(cfg, ["TRAIN", "VAL"])


def test_a_strip_of_which_the_configs_size_leaves_nothing_stops_it(files):
    cfg = config(files)
    Image.new("RGB", (1, 300)).save(files[1][1] / "003.png")
    edit(files[1][0], lambda c: c["images"][2].update(width=1, height=300))
    edit(files[1][0], lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 3]))
    check_datasets(cfg, ["VAL"])
    cfg.INPUT.MAX_SIZE_TEST = 128
    with pytest.raises(UserError, match="nothing of 1 x 300 pixels is left when the longer side becomes 128"):
        check_datasets(cfg, ["VAL"])


@pytest.mark.parametrize(
    ("split", "change"),
    [
        ("TRAIN", each(iscrowd=1)),
        ("VAL", each(iscrowd=1)),
        ("TRAIN", lambda c: c.update(annotations=[])),
        ("VAL", lambda c: c.update(annotations=[])),
        ("TRAIN", lambda c: c.pop("annotations")),
    ],
)
def test_nothing_to_train_or_evaluate_on_is_an_error(split, change, files):
    cfg = config(files)
    edit(files[split == "VAL"][0], change)
    with pytest.raises(UserError, match="there is nothing to (train|evaluate) on"):
        check_datasets(cfg, [split])


def test_a_json_without_annotations_is_for_predictions_alone(files):
    """As COCO's test-dev, whose predictions are sent in."""
    cfg = config(files)
    edit(files[1][0], lambda c: c.pop("annotations"))
    check_datasets(cfg, ["VAL"])


def test_a_category_that_training_does_not_know_is_refused(files):
    cfg = config(files)
    edit(files[1][0], lambda c: c["categories"].append({"id": 20, "name": "white"}))
    with pytest.raises(UserError, match=r"the categories \['white'\] are not among the classes"):
        check_datasets(cfg, ["VAL"])


@pytest.mark.parametrize("split", ["TRAIN", "VAL"])
def test_masks_need_segmentations(files, split):
    edit(files[split == "VAL"][0], lambda c: c["annotations"][1].pop("segmentation"))
    check_datasets(config(files), [split])
    with pytest.raises(UserError, match=r"a segmentation in every annotation, .* 1 without, the first in image \d+"):
        check_datasets(config(files, MASK_ON=True), [split])


def test_run_length_masks_need_their_format(files):
    run_lengths = {"size": [64, 96], "counts": [1000, 5144]}
    edit(files[0][0], lambda c: c["annotations"][0].update(segmentation=run_lengths))
    cfg = config(files, MASK_ON=True)
    with pytest.raises(UserError, match="got run-length masks; add INPUT.MASK_FORMAT bitmask"):
        check_datasets(cfg, ["TRAIN"])
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_datasets(cfg, ["TRAIN"])


def test_polygons_that_cocos_evaluation_takes_for_boxes_are_refused(files):
    edit(files[1][0], lambda c: c["annotations"][0]["segmentation"].insert(0, [1, 1, 2, 2]))
    check_datasets(config(files), ["VAL"])
    with pytest.raises(UserError, match="expected polygons of three points or more"):
        check_datasets(config(files, MASK_ON=True), ["VAL"])


def test_detectron2s_data_sets_have_to_have_the_classes_of_the_model(files):
    cfg = config(files)
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(UserError, match=r"coco_2017_val has the classes \['person', .* the model has \['green'"):
        check_datasets(cfg, ["VAL"])
