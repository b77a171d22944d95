"""What is predicted is in files; one bad image stops nothing else: it is named with the reason at the end."""

import argparse
import csv
import json
import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.checks import UserError
from libra_d2.cli import predict
from libra_d2.config import get_cfg
from tests.engine.tiny import write_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The config and the weights of a tiny detector, which finds something in every image."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    torch.manual_seed(0)
    weights = build_model(cfg).state_dict()
    for name in ("proposal_generator.rpn_head.anchor_deltas", "roi_heads.box_predictor.bbox_pred"):
        weights[f"{name}.weight"].zero_()  # boxes are anchors, wherever the features of random weights lead
    weights["roi_heads.box_predictor.cls_score.weight"].mul_(0.01)
    torch.save({"model": weights, "class_names": ["a", "b"]}, folder / "model.pth")
    return config, folder / "model.pth"


class Count:
    """Counts the images that a predictor is asked for, and is interrupted at one of them."""

    def __init__(self, monkeypatch, stop_at=None):
        self.calls = 0
        build = predict.build_predictor

        def counting(cfg):
            predictor = build(cfg)

            def called(image):
                self.calls += 1
                if self.calls == stop_at:
                    raise KeyboardInterrupt
                return predictor(image)

            return called

        monkeypatch.setattr(predict, "build_predictor", counting)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Detectron2's handlers would outlive the stream of the test that they write to; cli.main filters torch's log."""
    monkeypatch.setattr(predict, "log_to_terminal", lambda: None)
    monkeypatch.setattr(logging.getLogger("torch.fx._symbolic_trace"), "disabled", True)


def drawings(folder):
    return sorted(path.name for path in folder.iterdir() if "predictions." not in path.name)


def predictions(folder):
    return json.loads((folder / "predictions.json").read_text())


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
    assert drawings(tmp_path / "out") == ["a good one.png", "z good one.png"]
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
    assert drawings(tmp_path / "out") == ["photo.png", "photo.raw.png", "photo_2.png"]


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


def images(folder, number, first=0):
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i}.png" for i in range(first, first + number)]
    for i, file in enumerate(files):
        save(file, np.random.default_rng(first + i).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    return files


def test_the_table_says_what_the_json_says(trained, capsys, tmp_path):
    files = images(tmp_path / "in", 2)
    assert run(trained, capsys, tmp_path / "out", tmp_path / "in") == (0, [])
    entries = predictions(tmp_path / "out")
    assert {entry["file_name"] for entry in entries} == set(map(str, files))
    assert {entry["image_id"] for entry in entries} == {1, 2}
    assert {entry["category_id"] for entry in entries} <= {1, 2}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [float(row["score"]) for row in rows] == [entry["score"] for entry in entries]
    assert {(row["category"], row["category_id"]) for row in rows} <= {("a", "1"), ("b", "2")}
    box = [float(rows[0][name]) for name in ("x", "y", "width", "height")]
    assert box == entries[0]["bbox"]


def test_tiles_see_more_of_a_large_image(trained, tmp_path):
    config, weights = map(str, trained)
    save(tmp_path / "large.png", photo(128, 192))
    boxes = {}
    for name, tiles in {"whole": [], "tiled": ["--tile", "64", "--overlap", "0.25"]}.items():
        args = ["--config-file", config, "--input", str(tmp_path / "large.png"), "--output", str(tmp_path / name)]
        args += [*tiles, "--confidence-threshold", "0", "--opts", "MODEL.WEIGHTS", weights]
        assert predict.run(predict.argument_parser("predict").parse_args(args)) == 0
        boxes[name] = [entry["bbox"] for entry in predictions(tmp_path / name)]
    assert len(boxes["tiled"]) > len(boxes["whole"]) > 0
    assert max(x + width for x, _, width, _ in boxes["tiled"]) > 150
    assert max(max(width, height) for _, _, width, height in boxes["tiled"]) <= 64


def test_neither_order_nor_repetition_of_the_inputs_matters(trained, capsys, tmp_path):
    files = images(tmp_path / "in", 3)
    run(trained, capsys, tmp_path / "one", *files)
    run(trained, capsys, tmp_path / "two", files[2], tmp_path / "in", files[0])
    assert len(predictions(tmp_path / "one"))
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")
    for name in drawings(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_it_goes_on_where_it_was_stopped(trained, capsys, tmp_path, monkeypatch):
    images(tmp_path / "in", 5)
    run(trained, capsys, tmp_path / "whole", tmp_path / "in")
    with monkeypatch.context() as patch:
        Count(patch, stop_at=4)
        with pytest.raises(KeyboardInterrupt):
            run(trained, capsys, tmp_path / "out", tmp_path / "in")
    with (tmp_path / "out" / ".predictions.rank0.jsonl").open("a") as journal:
        journal.write('{"key": "what a kill leaves')
    count = Count(monkeypatch)
    assert run(trained, capsys, tmp_path / "out", tmp_path / "in") == (0, [])
    assert count.calls == 2
    assert predictions(tmp_path / "out") == predictions(tmp_path / "whole")
    assert drawings(tmp_path / "out") == drawings(tmp_path / "whole")


def test_what_has_changed_is_predicted_again(trained, capsys, tmp_path, monkeypatch):
    images(tmp_path / "in", 4)
    run(trained, capsys, tmp_path / "out", tmp_path / "in")
    (tmp_path / "out" / "0.png").unlink()
    save(tmp_path / "in" / "1.png", photo())
    images(tmp_path / "in", 1, first=4)
    count = Count(monkeypatch)
    run(trained, capsys, tmp_path / "out", tmp_path / "in")
    assert count.calls == 3
    run(trained, capsys, tmp_path / "out", tmp_path / "in", threshold=0.3)
    assert count.calls == 3 + 5, "with other options everything is"
    assert all(entry["score"] >= 0.3 for entry in predictions(tmp_path / "out"))


def video(file, frames=12):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(frames):
        writer.write(np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    writer.release()
    return file


def num_frames(file):
    capture, number = cv2.VideoCapture(str(file)), 0
    while capture.grab():
        number += 1
    return number


def test_a_video_is_drawn_frame_by_frame_and_goes_on_where_it_was_stopped(trained, capsys, tmp_path, monkeypatch):
    walk, image = video(tmp_path / "walk.avi"), images(tmp_path / "in", 1)[0]
    with monkeypatch.context() as patch:
        Count(patch, stop_at=6)
        with pytest.raises(KeyboardInterrupt):
            run(trained, capsys, tmp_path / "out", walk, image)
    count = Count(monkeypatch)
    assert run(trained, capsys, tmp_path / "out", walk, image) == (0, [])
    assert count.calls == 13 - 5
    assert drawings(tmp_path / "out") == ["0.png", "walk.mp4"]
    assert num_frames(tmp_path / "out" / "walk.mp4") == 12
    entries = predictions(tmp_path / "out")
    assert {entry["image_id"] for entry in entries} == set(range(1, 14))
    assert {entry["file_name"] for entry in entries} == {str(image), *(f"{walk}#{i}" for i in range(12))}
    run(trained, capsys, tmp_path / "out", walk, image)
    assert count.calls == 13 - 5, "all of it was there"


def test_what_there_is_of_a_truncated_video_is_predicted(trained, capsys, tmp_path):
    walk = video(tmp_path / "walk.avi")
    walk.write_bytes(walk.read_bytes()[: walk.stat().st_size // 2])
    (tmp_path / "none.mp4").write_bytes(b"no video")
    status, errors = run(trained, capsys, tmp_path / "out", tmp_path / "none.mp4", walk)
    assert status == 1
    frames = num_frames(tmp_path / "out" / "walk.mp4")
    assert 3 < frames < 9
    assert f"{walk}: it is truncated: {frames} of 12 frames can be read" in errors
    assert any(line.startswith(f"{tmp_path}/none.mp4: cannot be read (ValueError: OpenCV finds no") for line in errors)
    assert len({entry["image_id"] for entry in predictions(tmp_path / "out")}) == frames


def test_a_coco_json_gives_its_ids(trained, capsys, tmp_path):
    images(tmp_path / "in", 2)
    records = [{"id": 70, "file_name": "1.png"}, {"id": 5, "file_name": "0.png"}, {"id": 6, "file_name": "gone.png"}]
    categories = [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}]
    coco = tmp_path / "some.json"
    coco.write_text(json.dumps({"images": records, "categories": categories}))
    with pytest.raises(UserError, match=r"none of its 3 images is in .*; add --images FOLDER"):
        run(trained, capsys, tmp_path / "out", coco)
    coco = coco.rename(tmp_path / "in" / "some.json")
    extra = images(tmp_path / "more", 1, first=2)[0]
    status, errors = run(trained, capsys, tmp_path / "out", coco, extra)
    assert status == 1
    assert errors[0].startswith(f"{tmp_path}/in/gone.png: cannot be read (FileNotFoundError")
    entries = predictions(tmp_path / "out")
    ids = {entry["file_name"]: entry["image_id"] for entry in entries}
    assert ids == {f"{tmp_path}/in/0.png": 5, f"{tmp_path}/in/1.png": 70, str(extra): 71}
    assert {entry["category_id"] for entry in entries} <= {4, 9}
