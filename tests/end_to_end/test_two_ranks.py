"""Two ranks compute what one does, and two that were killed what two would have computed."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from libra_d2.config import get_cfg
from libra_d2.engine.setup import enter_process
from libra_d2.engine.validation_loss import ValidationLoss
from libra_d2.inference import load_trained
from tests.end_to_end.workplace import ROOT, Workplace

TWO_RANKS = ["--num-gpus", 2, "--dist-url", "auto"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
# each rank has batch statistics of its own otherwise, as in Detectron2
CPU = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.PIXEL_STD", "[500.0, 500.0, 500.0]"]
FOLLOWED = [
    *("TEST.EVAL_PERIOD", 3, "MODEL.LIBRA.TRAIN.VALIDATION_LOSS", -1, "MODEL.LIBRA.TRAIN.EMA_DECAY", 0.5),
    *("MODEL.LIBRA.TRAIN.BEST_METRIC", "validation_loss_EMA/total_loss", "MODEL.LIBRA.TRAIN.PATIENCE", 5),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def whole(place):
    """Where two ranks have trained without interruption."""
    place.train(*TWO_RANKS, *CPU, *FOLLOWED, "OUTPUT_DIR", "whole")
    return place.folder / "whole"


def validation_losses(folder):
    """{iteration: {name: loss}}"""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    found = {line["iteration"]: {k: v for k, v in line.items() if k.startswith("validation_loss")} for line in lines}
    return {iteration: losses for iteration, losses in found.items() if losses}


def best(folder):
    return torch.load(folder / "model_final.pth")["trainer"]["hooks"]["BestCheckpointer"]


def test_two_ranks_take_the_step_that_one_takes(place):
    """With every box sampled, as many on each rank, and losses divided by the same, their gradients are the same."""
    content = json.loads((place.folder / "train" / "annotations.json").read_text())
    content["images"] = [image for image in content["images"] if image["width"] == 96][:4]
    first = {a["image_id"]: a for a in reversed(content["annotations"])}
    content["annotations"] = [first[image["id"]] for image in content["images"]]
    (place.folder / "even.json").write_text(json.dumps(content))

    def first_gradients(ranks):
        place.run(
            *(ROOT / "train_net.py", "--config-file", "tiny.yaml", "--num-gpus", ranks, "--dist-url", "auto"),
            *("--train-json", "even.json", "--train-images", "train/images", "MODEL.DEVICE", "cpu"),
            *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.PIXEL_STD", "[500.0, 500.0, 500.0]"),
            *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000),
            *("MODEL.LIBRA.RPN.NEG_POS_UB", -1.0, "MODEL.LIBRA.RPN.NORMALIZER", "fixed"),
            *("INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()"),
            *("SOLVER.WEIGHT_DECAY", 0.0, "OUTPUT_DIR", f"step_{ranks}"),
        )
        state = torch.load(place.folder / f"step_{ranks}" / "model_final.pth")["trainer"]["_trainer"]["optimizer"][
            "state"
        ]
        return [state[i]["momentum_buffer"] for i in sorted(state)]  # after one step of SGD the gradient itself

    one, two = first_gradients(1), first_gradients(2)
    assert min(gradient.abs().max() for gradient in one) > 0
    for alone, together in zip(one, two, strict=True):
        scale = alone.abs().max().item()
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5 * scale + 1e-9)


def test_the_best_of_two_ranks_has_the_validation_losses_that_one_computes(whole, monkeypatch):
    cfg = get_cfg()
    cfg.merge_from_file(str(whole / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(whole / "model_best.pth")
    monkeypatch.chdir(whole.parent)
    enter_process(cfg)
    try:
        model = load_trained(cfg)
        losses = ValidationLoss(cfg, model).results(model)["validation_loss"]
    finally:
        for name in ("libra_train", "libra_val"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    logged = validation_losses(whole)
    assert list(logged) == [2, 6]
    of_best = logged[min(logged, key=lambda i: logged[i]["validation_loss_EMA/total_loss"])]
    expected = {name.partition("/")[2]: v for name, v in of_best.items() if name.startswith("validation_loss_EMA/")}
    assert losses == pytest.approx(expected, rel=1e-5)
    assert best(whole)["best_metric"] == logged[2]["validation_loss_EMA/total_loss"], "the last is not counted yet"


def test_two_killed_ranks_keep_average_best_and_validation_losses(place, whole):
    run = [*TWO_RANKS, *CPU, *FOLLOWED, "OUTPUT_DIR", "killed"]
    place.kill_after_the_first_checkpoint(*run)
    place.assert_all_end()
    output = place.train("--resume", *run)
    assert "Starting training from iteration 3" in output
    killed = place.folder / "killed"
    states = [torch.load(folder / "model_final.pth")["averaged"] for folder in (killed, whole)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-7)
    assert best(killed) == pytest.approx(best(whole), rel=1e-5)
    expected = validation_losses(whole)
    assert validation_losses(killed) == {i: pytest.approx(losses, rel=1e-5) for i, losses in expected.items()}
    assert expected[2] != pytest.approx(expected[6], rel=1e-3)


def test_two_ranks_evaluate_tiles_and_augmentation_as_one_does(place, whole):
    def evaluate(out, *ranks):
        augmented = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.MAX_SIZE", 128]
        output = place.run(
            *("-m", "libra_d2.cli", "eval", "--config-file", "whole/config.yaml", *ranks, "--tile", 48),
            *("OUTPUT_DIR", out, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "whole/model_final.pth", *augmented),
        )
        assert output.count("Evaluation results for libra_val") == 2
        files = [place.folder / out / f"inference{kind}" / "coco_instances_results.json" for kind in ("", "_TTA")]
        found = [sorted(json.loads(file.read_text()), key=lambda entry: entry["image_id"]) for file in files]
        return *found, json.loads((place.folder / out / "report" / "report.json").read_text())

    by_one, by_two = evaluate("by_one"), evaluate("by_two", *TWO_RANKS)
    assert by_two == by_one
    plain, augmented, _ = by_one
    assert {entry["image_id"] for entry in plain} == {1, 2, 3}, "both ranks had something to find"
    assert augmented != plain


def test_two_ranks_predict_tiles_as_one_does(place, whole):
    command = [ROOT / "demo.py", "--config-file", "whole/config.yaml", "--input", "train/images", "--tile", 48]
    options = ["--confidence-threshold", 0.05, "--opts", "MODEL.WEIGHTS", "whole/model_final.pth"]
    for out, start in (("drawn_by_one", []), ("drawn_by_two", TORCHRUN)):
        place.run(*start, *command, "--output", out, *options)
    for name in ("predictions.json", "predictions.csv", *(f"00{i}.png" for i in range(1, 9))):
        one, two = ((place.folder / out / name).read_bytes() for out in ("drawn_by_one", "drawn_by_two"))
        assert one == two, name
    assert len(json.loads((place.folder / "drawn_by_one" / "predictions.json").read_text()))
