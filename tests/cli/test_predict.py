"""One bad image stops nothing else: it is named with the reason, and the exit status is 1."""

import argparse

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.cli import predict
from libra_d2.config import get_cfg
from tests.engine.tiny import write_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The config and the weights of a tiny detector."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    torch.save({"model": build_model(cfg).state_dict(), "class_names": ["a", "b"]}, folder / "model.pth")
    return config, folder / "model.pth"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Detectron2's handlers would outlive the stream of the test that they write to."""
    monkeypatch.setattr(predict, "setup_logger", lambda **_: None)


def run(trained, capsys, output, *inputs, threshold=0.0):
    config, weights = trained
    args = argparse.Namespace(
        config_file=str(config),
        input=[str(path) for path in inputs],
        output=str(output),
        confidence_threshold=threshold,
        opts=["MODEL.WEIGHTS", str(weights), "INPUT.MAX_SIZE_TEST", "128"],
    )
    status = predict.run(args)
    return status, capsys.readouterr().err.splitlines()


def save(file, pixels):
    Image.fromarray(pixels).save(file, format=None if file.suffix else "png")


def photo(height=64, width=96):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_it_goes_on_after_images_that_cannot_be_drawn(trained, capsys, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    save(folder / "a good one.png", photo())
    save(folder / "z good one.png", photo())
    save(folder / "bomb.png", photo(300, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    save(folder / "chunks.png", photo())
    damaged = bytearray((folder / "chunks.png").read_bytes())
    damaged[1000] ^= 255
    (folder / "chunks.png").write_bytes(damaged)
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to("nowhere.png")
    save(folder / "deep.png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    save(folder / "float.tif", np.arange(256, dtype=np.float32).reshape(16, 16) / 255)
    save(folder / "strip.png", photo(1, 10_000))
    status, errors = run(trained, capsys, tmp_path / "out", folder)
    assert status == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a good one.png", "z good one.png"]
    named = {line.partition(":")[0].rpartition("/")[2]: line.partition(": ")[2] for line in errors}
    unreadable = ["bomb.png", "chunks.png", "cut.jpg", "deep.png", "empty.png", "float.tif", "folder.png", "link.png"]
    assert [name for name in unreadable if named[name].startswith("cannot be read (")] == unreadable
    assert "expected pixels of 8 bits" in named["deep.png"]
    assert named["strip.png"].startswith("nothing can be predicted on its 10000 x 1 pixels (")
    assert errors[-1] == "9 of 11 images were not drawn"


def test_what_cannot_be_saved_is_named(trained, capsys, tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, photo())
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    status, errors = run(trained, capsys, tmp_path / "out", tmp_path / "a.png", tmp_path / "b.png")
    assert status == 1
    assert errors[0].startswith(f"{tmp_path}/a.png: cannot be written to {tmp_path}/out/a.png (IsADirectoryError")
    assert (tmp_path / "out" / "b.png").is_file()


def test_names_that_no_format_can_be_told_from_get_a_suffix(trained, capsys, tmp_path):
    for name in ("photo", "photo.raw", "photo.png"):
        save(tmp_path / "x.png", photo())
        (tmp_path / "x.png").rename(tmp_path / name)
    inputs = [tmp_path / name for name in ("photo.png", "photo", "photo.raw")]
    assert run(trained, capsys, tmp_path / "out", *inputs) == (0, [])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo.png", "photo.raw.png", "photo_2.png"]


def test_labels_are_the_names_that_the_checkpoint_carries(trained):
    config, weights = trained
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.DATASETS.TEST = ("coco_2017_val",)
    assert predict.metadata_of(cfg).thing_classes[0] == "person"
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["a", "b"]
    assert predict.metadata_of(cfg).thing_classes == ["a", "b"]
    cfg.DATASETS.TEST = ()
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = []
    assert predict.metadata_of(cfg).get("thing_classes") is None
