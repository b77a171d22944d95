"""Your data can be looked at before there is a model."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from libra_d2.cli.main import main
from tests.engine.tiny import write_dataset


@pytest.fixture
def data(tmp_path):
    yield write_dataset(tmp_path / "data")
    if "libra_train" in DatasetCatalog:
        DatasetCatalog.remove("libra_train")
        MetadataCatalog.remove("libra_train")


def plot(data, output, *options):
    return main(["plot", "data", *map(str, data), "--output", str(output), *options])


def test_every_image_is_drawn_with_what_is_on_it(data, tmp_path, capsys):
    assert plot(data, tmp_path / "out", "--num-images", "0") == 0
    objects = len(json.loads(data[0].read_text())["annotations"])
    assert capsys.readouterr().out == f"8 images with {objects} objects are drawn in {tmp_path / 'out'}\n"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{i:03d}.png" for i in range(1, 9)]
    drawn, plain = (np.asarray(Image.open(folder / "003.png")) for folder in (tmp_path / "out", data[1]))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_a_few_are_spread_over_the_set(data, tmp_path):
    assert plot(data, tmp_path / "out", "--num-images", "3") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["001.png", "003.png", "006.png"]


def test_names_of_classes_go_by_their_id(data, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "libra_d2.cli.plot.draw_annotations",
        lambda image, annotations, names: drawn.append({names[a["category_id"]] for a in annotations}) or image,
    )
    plot(data, tmp_path / "out")
    content = json.loads(data[0].read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image, found in zip(content["images"], drawn, strict=True):
        assert found == {names[a["category_id"]] for a in content["annotations"] if a["image_id"] == image["id"]}


def test_what_cannot_be_drawn_is_one_sentence(data, tmp_path, capsys):
    (data[1] / "002.png").unlink()
    assert plot(data, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"{data[0]} cannot be used: " in error
    assert f"002.png. `libra-d2 check {data[0]} {data[1]}` lists all" in error
    assert plot(data, tmp_path / "out", "--num-images", "-1") == 1
    assert "--num-images: expected a number of images, or 0 for all, got -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
