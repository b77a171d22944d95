"""The Python in README.md runs as it stands, on files where `make quickstart` leaves them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

import libra_d2

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def after_quickstart(tmp_path):
    """A folder with an untrained model of the quickstart's config, and an image."""
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/quickstart/libra_faster_rcnn_trees.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    output = tmp_path / "output/quickstart"
    output.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, output / "model_final.pth")
    (output / "config.yaml").write_text(cfg.dump())
    (name,) = re.findall(r'read_image\("(.*?)"', BLOCKS[0])
    image = tmp_path / name
    image.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    return tmp_path


def test_default_predictor_block(after_quickstart):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKS[0]], cwd=after_quickstart, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Instances\(num_instances=\d+, image_height=320, image_width=320", done.stdout)


def test_sampler_block():
    from libra_d2.modeling import BOX_SAMPLER_REGISTRY

    exec(BLOCKS[1], {})
    assert "MySampler" in BOX_SAMPLER_REGISTRY
