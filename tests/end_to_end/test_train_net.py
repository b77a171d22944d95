"""The documented commands, run as they are, on a data set that train_net.py has never seen."""

import json
import os
import re

import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor

from libra_d2.config import get_cfg
from tests.end_to_end.workplace import ROOT, Workplace, last_losses


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def trained(place):
    """A whole training, without interruption."""
    return place.train("OUTPUT_DIR", "whole")


def test_own_json_trains_and_ends_with_the_ap(place, trained):
    table = trained[trained.index("Evaluation results for bbox") :]
    assert re.search(r"\|\s+AP\s+\|\s+AP50", table)
    assert re.search(r"\| green\s+\|.*\| red\s+\|.*\| blue", table), "class names of the json, by category id"
    assert "eta: " in trained
    out = place.folder / "whole"
    assert list(out.glob("events.out.tfevents*"))
    assert last_losses(out)["total_loss"] > 0


def test_a_killed_training_resumes_with_the_losses_it_would_have_had(place, trained):
    out = place.folder / "killed"
    place.kill_after_the_first_checkpoint("OUTPUT_DIR", "killed")
    output = place.train("--resume", "OUTPUT_DIR", "killed", "DATALOADER.NUM_WORKERS", "2")
    assert "Starting training from iteration 3" in output
    assert last_losses(out) == pytest.approx(last_losses(place.folder / "whole"), rel=1e-5)


def test_a_killed_training_keeps_the_averaged_weights_and_the_best(place):
    options = ["TEST.EVAL_PERIOD", 3, "MODEL.LIBRA.TRAIN.EMA_DECAY", 0.5]
    options += ["MODEL.LIBRA.TRAIN.BEST_METRIC", "bbox_EMA/AP", "MODEL.LIBRA.TRAIN.PATIENCE", 5]
    place.train(*options, "OUTPUT_DIR", "followed")
    place.kill_after_the_first_checkpoint(*options, "OUTPUT_DIR", "followed_killed")
    place.train("--resume", *options, "OUTPUT_DIR", "followed_killed")
    whole, killed = (torch.load(place.folder / out / "model_final.pth") for out in ("followed", "followed_killed"))
    torch.testing.assert_close(killed["averaged"], whole["averaged"], rtol=1e-5, atol=1e-7)
    assert killed["trainer"]["hooks"]["BestCheckpointer"] == whole["trainer"]["hooks"]["BestCheckpointer"]
    for out in ("followed", "followed_killed"):
        lines = [json.loads(line) for line in (place.folder / out / "metrics.json").read_text().splitlines()]
        assert {line["iteration"] for line in lines if "bbox_EMA/AP" in line} == {2, 6}


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(place, trained):
    out = place.folder / "damaged"
    out.mkdir()
    for name in ("model_0000002.pth", "model_0000005.pth"):
        (out / name).write_bytes((place.folder / "whole" / name).read_bytes())
    (out / "last_checkpoint").write_text("model_0000005.pth")
    os.truncate(out / "model_0000005.pth", 5000)
    output = place.train("--resume", "OUTPUT_DIR", "damaged")
    assert re.search(r"damaged/model_0000005.pth is truncated or damaged", output)
    assert "Starting training from iteration 3" in output
    assert last_losses(out) == pytest.approx(last_losses(place.folder / "whole"), rel=1e-5)


def test_two_cpu_ranks_train_resume_and_evaluate(place):
    args = ["--num-gpus", "2", "--dist-url", "auto", "MODEL.DEVICE", "cpu", "OUTPUT_DIR"]
    output = place.train(*args, "ranks")
    assert "World size: 2" in output
    assert "Evaluation results for bbox" in output
    assert (place.folder / "ranks" / "log.txt.rank1").exists()
    out = place.folder / "ranks_resumed"
    out.mkdir()
    (out / "model_0000002.pth").write_bytes((place.folder / "ranks" / "model_0000002.pth").read_bytes())
    (out / "last_checkpoint").write_text("model_0000002.pth")
    output = place.train("--resume", *args, "ranks_resumed")
    assert "Starting training from iteration 3" in output
    assert last_losses(out) == pytest.approx(last_losses(place.folder / "ranks"), rel=1e-5)


def test_the_saved_config_alone_evaluates(place, trained):
    output = place.run(
        *(ROOT / "train_net.py", "--eval-only", "--config-file", "whole/config.yaml", "OUTPUT_DIR", "evaluated"),
        *("MODEL.WEIGHTS", "whole/model_final.pth"),
    )

    def table(text):
        return text[text.index("Per-category bbox AP") :].split("[", 1)[0]

    assert table(output) == table(trained)


def test_eval_writes_a_report(place, trained):
    output = place.run(
        *("-m", "libra_d2.cli", "eval", "--config-file", "whole/config.yaml", "--num-gpus", "2", "--dist-url", "auto"),
        *("OUTPUT_DIR", "reported", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "whole/model_final.pth"),
    )
    assert "The report is reported/report/report.html" in output
    numbers = json.loads((place.folder / "reported" / "report" / "report.json").read_text())
    last = [line for line in output.splitlines() if "copypaste: " in line][-1].rpartition(" ")[2]
    assert f"{numbers['bbox']['AP']:.4f}" == last.split(",")[0], "as in the evaluation"
    text = (place.folder / "reported" / "report" / "report.html").read_text()
    assert all(f"<th>{name}</th>" in text for name in ("red", "green", "blue"))
    assert "The images with the most mistakes" in text


def test_prediction_finds_what_the_evaluation_finds(place, trained):
    place.run(
        *("-m", "libra_d2.cli", "predict", "--config-file", "whole/config.yaml", "--input", "val/annotations.json"),
        *("--images", "val/images", "--output", "predicted", "--confidence-threshold", 0.05),
        *("--opts", "MODEL.WEIGHTS", "whole/model_final.pth"),
    )
    files = ("predicted/predictions.json", "whole/inference/coco_instances_results.json")
    predicted, evaluated = (json.loads((place.folder / file).read_text()) for file in files)
    ids = {0: 3, 1: 7, 2: 11}  # where Detectron2 converts the data set, its results number the classes from 0
    for entry in evaluated:
        entry["category_id"] = ids.get(entry["category_id"], entry["category_id"])
    assert len(predicted)
    for entry in predicted:
        assert entry.pop("file_name") == f"val/images/{entry['image_id']:03d}.png"
    assert predicted == sorted(evaluated, key=lambda entry: entry["image_id"])


def test_two_ranks_predict_what_one_does(place, trained):
    command = ["--config-file", "whole/config.yaml", "--input", "train/images", "--confidence-threshold", 0.05]
    weights = ["--opts", "MODEL.WEIGHTS", "whole/model_final.pth"]
    place.run(ROOT / "demo.py", *command, "--output", "by_one", *weights)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / "demo.py"]
    place.run(*torchrun, *command, "--output", "by_two", *weights)
    for name in ("predictions.json", "predictions.csv", *(f"00{i}.png" for i in range(1, 9))):
        assert (place.folder / "by_one" / name).read_bytes() == (place.folder / "by_two" / name).read_bytes()
    assert all(len(file.read_text().splitlines()) == 1 + 4 for file in (place.folder / "by_two").glob(".pred*.jsonl"))
    output = place.run(ROOT / "demo.py", *command, "--output", "by_two", *weights)
    assert "by_two has 8 predictions of these weights and options" in output


def test_the_saved_config_serves_default_predictor(place, trained):
    cfg = get_cfg()
    cfg.merge_from_file(str(place.folder / "whole" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(place.folder / "whole" / "model_final.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["green", "red", "blue"]
    instances = predictor(read_image(str(place.folder / "val" / "images" / "001.png"), "BGR"))["instances"]
    assert len(instances)
    assert instances.pred_classes.max() < 3
    saved = torch.load(cfg.MODEL.WEIGHTS)["model"]
    assert "backbone.refine.theta.weight" in saved


def test_the_saved_config_serves_the_demo(place, trained):
    output = place.run(
        *(
            ROOT / "demo.py",
            "--config-file",
            "whole/config.yaml",
            "--input",
            "val/images/00[12].png",
            "train/images/001.png",
        ),
        *("--output", "drawn", "--confidence-threshold", "0.0", "--opts", "MODEL.WEIGHTS", "whole/model_final.pth"),
    )
    drawn = place.folder / "drawn"
    assert sorted(p.name for p in drawn.glob("*.png")) == ["001.png", "001_2.png", "002.png"]
    assert re.search(r"val/images/001.png: [1-9]\d* detections, drawn in drawn/001_2.png", output)
    before = read_image(str(place.folder / "val" / "images" / "001.png"), "RGB")
    after = read_image(str(drawn / "001_2.png"), "RGB")
    assert before.shape == after.shape
    assert (before != after).any()


DEMO = ["--config-file", "whole/config.yaml", "--input", "val/images/001.png", "--output", "drawn"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (DEMO, "is not this detector after training, it lacks"),
        (["--webcam"], "--webcam: expected files"),
    ],
)
def test_the_demo_says_in_one_line_what_is_wrong(args, expected, place, trained):
    output = place.run(ROOT / "demo.py", *args, fails=True)
    assert expected in output.splitlines()[-1]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config-file", "tiny.yaml", "MODEL.WIGHTS", "x"], "unknown config key MODEL.WIGHTS; did you mean"),
        (
            ["--train-json", "gone.json", "--train-images", "train/images"],
            "MODEL.LIBRA.DATA.TRAIN_JSON: there is no gone.json",
        ),
        (["--config-file", "tiny.yaml"], "DATASETS.TRAIN: expected data to train on, got none"),  # found on the rank
    ],
)
def test_train_net_says_in_one_line_what_is_wrong(args, expected, place):
    output = place.run(ROOT / "train_net.py", *args, fails=True)
    assert output.splitlines()[-1].startswith(f"train_net.py: error: {expected}")
    assert "Traceback" not in output
