"""Configs by name, in a checkout and in a wheel, and models of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from libra_d2 import model_zoo
from libra_d2.checks import UserError
from libra_d2.config import files

ROOT = Path(__file__).parents[2]
NAMES = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("name", ["finetune/libra_retinanet_R_50_FPN_1x.yaml", "ablations/baseline.yaml"])
def test_a_name_leads_to_the_file(name):
    file = ROOT / "configs" / name
    for written in (name, f"configs/{name}", name.removesuffix(".yaml")):
        assert Path(model_zoo.get_config_file(written)) == file
    cfg = model_zoo.get_config(name)
    assert cfg.dump() == files.load_config(str(file), []).dump()


def test_a_wrong_name_is_answered_with_near_ones():
    with pytest.raises(
        UserError, match="there is no config libra_faster_R_50.yaml; did you mean .*libra_faster_rcnn_R"
    ):
        model_zoo.get_config_file("libra_faster_R_50.yaml")
    with pytest.raises(UserError, match="there is no config qwerty$"):
        model_zoo.get_config_file("qwerty")


def test_trained_is_for_configs_that_name_a_detector():
    name = "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml"
    assert model_zoo.get_config(name, trained=True).MODEL.WEIGHTS.startswith("detectron2://COCO-Detection/faster_rcnn")
    with pytest.raises(UserError, match="no trained weights are published for libra_faster_rcnn_R_50_FPN_1x.yaml"):
        model_zoo.get_config("libra_faster_rcnn_R_50_FPN_1x.yaml", trained=True)


def test_a_model_comes_with_the_weights_of_its_config(tmp_path, monkeypatch):
    """A config whose weights were made here, as the zoo's cannot be fetched in a test."""
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder)
    monkeypatch.setattr(files, "config_folder", lambda: folder)
    narrow = "RESNETS: {STEM_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 4, RES2_OUT_CHANNELS: 16}, FPN: {OUT_CHANNELS: 16}"

    def write(weights):
        base = '_BASE_: "libra_retinanet_R_50_FPN_1x.yaml"'
        (folder / "small.yaml").write_text(f"{base}\nMODEL: {{WEIGHTS: '{weights}', {narrow}}}\n")

    write("")
    trained = build_model(model_zoo.get_config("small"))
    torch.save({"model": trained.state_dict()}, tmp_path / "small.pth")
    write(tmp_path / "small.pth")
    model = model_zoo.get("small", device="cpu")
    assert model.training
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_wheel_holds_every_config(tmp_path):
    """What setup.py puts into a wheel: the configs come along and are found there."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "*.so", "tests", "docs", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-c", "from libra_d2.config.files import *; print(config_folder(), *config_names())"],
        cwd=tmp_path / "built",
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    lazy = [str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs" / "lazy").rglob("libra_*.py")]
    assert found == [str(tmp_path / "built" / "libra_d2" / "configs"), *sorted([*NAMES, *lazy])]
