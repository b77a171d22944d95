"""The commands of `make quickstart` on a few small tiles: weights load, the config trains, pictures are drawn."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.config.files import load_config

ROOT = Path(__file__).parents[2]
CONFIG = "configs/quickstart/libra_faster_rcnn_trees.yaml"


def _run(*command):
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bright squares on a dark ground, as tools/prepare_quickstart.py lays out its tiles."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        images, annotations = [], []
        for n in range(1, 4):
            pixels = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
            for x, y in ((5, 8), (50, 40)):
                pixels[y : y + 30, x : x + 30] += 180
                box = {"bbox": [x, y, 30, 30], "area": 900, "iscrowd": 0, "category_id": 1}
                annotations.append({"id": len(annotations) + 1, "image_id": n, **box})
            Image.fromarray(pixels).save(folder / split / f"{n}.png")
            images.append({"id": n, "file_name": f"{n}.png", "width": 96, "height": 96})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tree"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def trained(data):
    state = {k: v for k, v in torchvision.models.mobilenet_v2().state_dict().items() if not k.startswith("classifier.")}
    torch.save({"model": state, "matching_heuristics": True}, data / "mobilenet_v2.pth")
    splits = [f"--{split}-{kind}" for split in ("train", "val") for kind in ("json", "images")]
    paths = [data / name for name in ("train.json", "train", "val.json", "val")]
    flags = [word for pair in zip(splits, paths, strict=True) for word in pair]
    opts = ["OUTPUT_DIR", data / "out", "MODEL.WEIGHTS", data / "mobilenet_v2.pth", "SOLVER.MAX_ITER", 2, "SEED", 1]
    log = _run("train_net.py", "--config-file", CONFIG, *flags, *opts, "INPUT.MIN_SIZE_TRAIN", "(96,)")
    return data / "out", log, len(state)


def test_it_trains_from_imagenet_weights_and_prints_the_coco_table(trained):
    output, log, num_backbone_tensors = trained
    loaded = int(re.search(r"Loaded (\d+) of the model's", log)[1])
    assert loaded == num_backbone_tensors
    assert "Average Precision  (AP) @[ IoU=0.50 " in log
    assert {"model_final.pth", "metrics.json", "config.yaml"} <= {path.name for path in output.iterdir()}


def test_its_pictures_are_drawn(trained):
    output, *_ = trained
    opts = ["MODEL.WEIGHTS", output / "model_final.pth"]
    config = ["--config-file", output / "config.yaml"]
    plot = ("-m", "libra_d2.cli", "plot")
    log = _run(*plot, "balance", *config, "--output", output / "pictures", "--max-images", 2, *opts)
    assert re.search(r"IoU-balanced picks: +\d", log)
    *_, last_bar = csv.DictReader((output / "pictures" / "balance.csv").open())
    assert float(last_bar["iou_to"]) == 0.5
    for name in ("balance", "balanced_l1"):
        assert Image.open(output / "pictures" / f"{name}.png").size[0] > 1000
        assert len(list(csv.reader((output / "pictures" / f"{name}.csv").open()))) > 10
    assert not (output / "pictures" / "levels.png").exists()  # the recipe has no balanced pyramid
    _run(*plot, "detections", *config, "--output", output / "detections.png", *opts)
    assert Image.open(output / "detections.png").size[0] > 500


def test_what_a_balanced_pyramid_adds_is_drawn_where_there_is_one(trained):
    output, *_ = trained
    pyramid = ["MODEL.LIBRA.BFP.ENABLED", "True"]
    model = build_model(load_config(str(output / "config.yaml"), pyramid))
    torch.save({"model": model.state_dict()}, output / "pyramid.pth")
    given = ["--config-file", output / "config.yaml", "--output", output / "with_pyramid", "--max-images", 1]
    _run("-m", "libra_d2.cli", "plot", "balance", *given, "MODEL.WEIGHTS", output / "pyramid.pth", *pyramid)
    assert Image.open(output / "with_pyramid" / "levels.png").size[0] > 500
    assert len(list(csv.reader((output / "with_pyramid" / "levels.csv").open()))) > 5
