"""Class names travel with the weights, from training to whatever is done with them."""

import argparse
import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from libra_d2.checks import UserError
from libra_d2.engine.setup import setup
from tests.engine.tiny import write_config, write_dataset


@pytest.fixture
def place(tmp_path):
    write_dataset(tmp_path / "data", 3)
    write_config(tmp_path / "tiny.yaml")
    yield tmp_path
    for name in ("libra_train", "libra_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        if name in MetadataCatalog:
            MetadataCatalog.remove(name)


def arguments(place, *opts, split="val", resume=False):
    data = {f"{split}_json": place / "data/annotations.json", f"{split}_images": place / "data/images"}
    return argparse.Namespace(
        config_file=str(place / "tiny.yaml"),
        opts=["OUTPUT_DIR", str(place / "out"), *opts],
        resume=resume,
        **{key: str(value) for key, value in data.items()},
    )


def save(place, names, name="model.pth"):
    (place / "out").mkdir(exist_ok=True)
    torch.save({"model": {}, "class_names": names}, place / "out" / name)
    return str(place / "out" / name)


def names_of(cfg):
    return cfg.MODEL.LIBRA.DATA.CLASS_NAMES


def test_evaluation_goes_by_the_names_of_the_weights(place):
    weights = save(place, ["blue", "white", "red", "green"])
    cfg = setup(arguments(place, "MODEL.WEIGHTS", weights), reads=["VAL"])
    assert names_of(cfg) == ["blue", "white", "red", "green"]
    labels = [a["category_id"] for record in DatasetCatalog.get("libra_val") for a in record["annotations"]]
    raw = json.loads((place / "data/annotations.json").read_text())
    name_of = {category["id"]: category["name"] for category in raw["categories"]}
    assert [names_of(cfg)[label] for label in labels] == [name_of[a["category_id"]] for a in raw["annotations"]]


def test_evaluation_with_a_class_that_the_weights_do_not_know_is_refused(place):
    weights = save(place, ["blue", "red"])
    with pytest.raises(UserError, match=r"\['green'\] are not among the classes \['blue', 'red'\] that .*model.pth"):
        setup(arguments(place, "MODEL.WEIGHTS", weights), reads=["VAL"])


def test_prediction_needs_no_json(place):
    weights = save(place, ["a", "b"])
    args = argparse.Namespace(config_file=str(place / "tiny.yaml"), opts=["MODEL.WEIGHTS", weights])
    cfg = setup(args)
    assert (names_of(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (["a", "b"], 2)


def test_training_may_start_from_weights_of_other_classes(place):
    weights = save(place, ["a", "b"])
    cfg = setup(arguments(place, "MODEL.WEIGHTS", weights, split="train"), reads=["TRAIN"], any_classes=True)
    assert names_of(cfg) == ["green", "red", "blue"]


def test_a_resumed_run_keeps_its_classes(place):
    weights = save(place, ["a", "b"], "start.pth")
    save(place, ["blue", "white", "red", "green"], "model_0000001.pth")
    (place / "out/last_checkpoint").write_text("model_0000001.pth")
    args = arguments(place, "MODEL.WEIGHTS", weights, split="train", resume=True)
    assert names_of(setup(args, reads=["TRAIN"], any_classes=True)) == ["blue", "white", "red", "green"]
    save(place, ["blue", "red"], "model_0000001.pth")
    with pytest.raises(UserError, match=r"\['green'\] are not among the classes \['blue', 'red'\] that .*0001.pth"):
        setup(args, reads=["TRAIN"], any_classes=True)
    for name in ("last_checkpoint", "model_0000001.pth"):
        (place / "out" / name).unlink()
    assert names_of(setup(args, reads=["TRAIN"], any_classes=True)) == ["green", "red", "blue"]


def test_data_with_errors_stop_a_command_that_reads_them(place):
    file = place / "data/annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["area"] = "9"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotation 1: area: expected a number"):
        setup(arguments(place), reads=["VAL"])
    setup(arguments(place))


def test_tiles_go_to_their_keys(place):
    args = arguments(place)
    assert setup(args).MODEL.LIBRA.TILES.SIZE == 0
    args.tile = 640
    assert setup(args).MODEL.LIBRA.TILES == {"SIZE": 640, "OVERLAP": 0.2}
    args.overlap = 0.0
    assert setup(args).MODEL.LIBRA.TILES == {"SIZE": 640, "OVERLAP": 0.0}
    args.tile = None
    with pytest.raises(UserError, match="--overlap 0: expected --tile PIXELS with it, got none"):
        setup(args)
    args.opts += ["MODEL.LIBRA.TILES.SIZE", "320"]
    assert setup(args).MODEL.LIBRA.TILES == {"SIZE": 320, "OVERLAP": 0.0}
