"""The Python in README.md runs as it stands, on files where `make quickstart` leaves them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image

import libra_d2
from libra_d2.losses import BOX_LOSS_REGISTRY
from libra_d2.modeling import BOX_SAMPLER_REGISTRY
from libra_d2.modeling.box_sampler import build_box_sampler
from tests.modeling.builders import batch, small_cfg

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
CONFIG = "libra_faster_rcnn_R_50_FPN_1x.yaml"


def block(text: str) -> str:
    """The one block of Python that contains ``text``."""
    (found,) = [block for block in BLOCKS if text in block]
    return found


@pytest.fixture(scope="module")
def after_quickstart(tmp_path_factory):
    """A folder with an untrained model of the quickstart's config, and an image."""
    folder = tmp_path_factory.mktemp("quickstart")
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/quickstart/libra_faster_rcnn_trees.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    output = folder / "output/quickstart"
    output.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, output / "model_final.pth")
    (output / "config.yaml").write_text(cfg.dump())
    (name,) = set(re.findall(r'read_image\("(.*?)"', "".join(BLOCKS)))
    image = folder / name
    image.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    return folder


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("predictor", ["DefaultPredictor", "build_predictor"])
def test_predictor_block(predictor, after_quickstart):
    output = run(block(predictor), after_quickstart)
    assert re.search(r"Instances\(num_instances=\d+, image_height=320, image_width=320", output)


def test_model_zoo_block():
    exec(block("model_zoo"), names := {})
    assert names["cfg"].MODEL.LIBRA.BFP.INIT == "identity"


@pytest.fixture
def example(monkeypatch):
    """Runs a block that registers something, which is forgotten after the test."""
    monkeypatch.setattr(BOX_SAMPLER_REGISTRY, "_obj_map", dict(BOX_SAMPLER_REGISTRY._obj_map))
    before = dict(BOX_LOSS_REGISTRY)
    yield lambda text: exec(block(text), {})
    BOX_LOSS_REGISTRY.clear()
    BOX_LOSS_REGISTRY.update(before)


def losses(*opts, config=CONFIG):
    torch.manual_seed(0)
    model = build_model(small_cfg(config, *opts)).train()
    with EventStorage():
        return model(batch())


def test_sampler_block(example):
    example("BOX_SAMPLER_REGISTRY")
    opts = ("MODEL.LIBRA.SAMPLER.NAME", "OverlappingSampler", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32)
    generator = torch.Generator().manual_seed(0)
    ious = torch.rand(200, generator=generator) ** 3
    labels = (ious >= 0.5).to(torch.int8)
    sampler = build_box_sampler(small_cfg(CONFIG, *opts))
    indices, num_positive, num_negative = sampler(labels, ious, labels.long(), torch.tensor([0, 200]), None)
    assert (num_positive.item(), num_negative.item()) == (8, 24)
    negatives = indices[0, 8:]
    assert ((ious[negatives] >= 0.1) & (ious[negatives] < 0.5)).all()
    assert (ious < 0.1).any()
    assert all(torch.isfinite(loss) for loss in losses(*opts).values())


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (CONFIG, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"),
        ("libra_retinanet_R_50_FPN_1x.yaml", "MODEL.RETINANET.BBOX_REG_LOSS_TYPE"),
    ],
)
def test_box_loss_block(config, key, example):
    example("BOX_LOSS_REGISTRY")
    pred, target = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    value = BOX_LOSS_REGISTRY.get("log_cosh")(None)(pred, target)
    torch.testing.assert_close(value, torch.cosh(pred - target).log())

    name = "loss_box_reg"
    ours, theirs = (losses(key, loss, config=config)[name] for loss in ("log_cosh", "balanced_l1"))
    assert torch.isfinite(ours)
    assert ours > 0
    assert ours != theirs
