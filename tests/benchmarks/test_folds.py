"""benchmarks/accuracy/folds.py: what the halves of the trees' photographs show."""

import json

import numpy as np
import pytest
from PIL import Image

SIZES = {"yell528_": (1300, 700), "yell541_": (900, 400)}


@pytest.fixture
def folder(accuracy, monkeypatch, tmp_path):
    """The folds of two photographs with boxes everywhere, across the seams and the middle, too."""
    folds = accuracy("folds")
    rng = np.random.default_rng(0)
    photographs = []
    for width, height in SIZES.values():
        corners = rng.uniform(0, (width - 60, height - 60), (200, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (200, 2))], axis=1)
        photographs.append((Image.new("RGB", (width, height)), [tuple(box) for box in boxes.tolist()]))
    monkeypatch.setattr(folds.quickstart, "read_photograph", lambda wheel, name: photographs.pop(0))
    monkeypatch.setattr(type(folds.TREES), "fetch", lambda self: None)
    folds.write(tmp_path / "folds")
    return tmp_path / "folds"


def pixels(folder, part):
    """How often the tiles of a part show each pixel of each photograph."""
    seen = {prefix: np.zeros((height, width), dtype=int) for prefix, (width, height) in SIZES.items()}
    for image in json.loads((folder / f"{part}.json").read_text())["images"]:
        prefix, corner = image["file_name"][:8], image["file_name"][8:].removesuffix(".png")
        x, y = map(int, corner.split("_"))
        seen[prefix][y : y + image["height"], x : x + image["width"]] += 1
    return seen


def test_no_pixel_is_trained_and_evaluated_in_one_fold_and_all_are_evaluated_once(folder):
    for prefix in SIZES:
        for fold in (0, 1):
            train, val = (pixels(folder, f"fold{fold}_{part}")[prefix] for part in ("train", "val"))
            assert ((train > 0) ^ (val > 0)).all()
        assert (pixels(folder, "fold0_val")[prefix] + pixels(folder, "fold1_val")[prefix] == 1).all()


def test_every_box_is_evaluated_once(folder):
    """Also those that no tile shows half of."""
    annotations = [a for i in (0, 1) for a in json.loads((folder / f"fold{i}_val.json").read_text())["annotations"]]
    assert sum(not a["iscrowd"] for a in annotations) == 400
    assert any(a["iscrowd"] for a in annotations)
