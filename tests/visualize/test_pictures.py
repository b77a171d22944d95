"""The numbers behind the pictures, by hand, and that every picture can be written, empty ones too."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from libra_d2.visualize import style
from libra_d2.visualize.balance import interval_shares, plot_balance, write_balance_csv
from libra_d2.visualize.balanced_l1 import gradient_shares, plot_balanced_l1, write_balanced_l1_csv
from libra_d2.visualize.detections import Scene, plot_detections
from libra_d2.visualize.recorder import Record

PAPER = {"alpha": 0.5, "gamma": 1.5, "beta": 1.0, "variant": "paper"}


def _record(negatives, random, balanced):
    ious = [torch.tensor(values, dtype=torch.float32) for values in (negatives, random, balanced)]
    return Record(*ious, errors=torch.rand(7, 4), bins=[0.0, 0.25, 0.5], num_images=1)


RECORD = _record([0.0] * 6 + [0.3, 0.45], [0.0, 0.0, 0.1, 0.3], [0.0, 0.0, 0.3, 0.45])
EMPTY = _record([], [], [])


def test_interval_shares_are_percent_of_each_kind():
    assert interval_shares(RECORD) == {
        "all negatives": [75.0, 25.0],
        "picked at random": [75.0, 25.0],
        "IoU-balanced picks": [50.0, 50.0],
    }


def test_the_balance_csv_counts_every_box_once(tmp_path):
    write_balance_csv(RECORD, tmp_path / "balance.csv")
    rows = list(csv.DictReader((tmp_path / "balance.csv").open()))
    assert [sum(int(row[name]) for row in rows) for name in list(rows[0])[2:]] == [8, 4, 4]
    hard = [row for row in rows if float(row["iou_from"]) >= 0.2]
    assert sum(int(row["IoU-balanced_picks"]) for row in hard) == 2
    assert float(rows[0]["iou_from"]) == 0
    assert float(rows[-1]["iou_to"]) == 0.5


def test_gradient_shares_of_two_errors():
    # smooth L1's gradients at 0.5 and 2 are 0.5 and 1; balanced L1's alpha * ln(b / 2 + 1) and gamma
    x, shares = gradient_shares(PAPER, torch.tensor([[0.5, 2.0]]))
    at_one = {name: float(np.interp(1.0, x, share)) for name, share in shares.items()}
    small = 0.5 * math.log(math.expm1(3.0) / 2 + 1)
    assert at_one == pytest.approx({"coordinates": 0.5, "smooth_l1": 1 / 3, "balanced_l1": small / (small + 1.5)})
    assert all(share[-1] == pytest.approx(1) for share in shares.values())


def test_the_loss_csv_holds_the_curves_of_the_picture(tmp_path):
    write_balanced_l1_csv(PAPER, RECORD.errors, tmp_path / "loss.csv")
    rows = list(csv.DictReader((tmp_path / "loss.csv").open()))
    row = min(rows, key=lambda row: abs(float(row["error"]) - 1.5))
    assert float(row["gradient_smooth_l1"]) == float(row["gradient_l1"]) == 1.0
    assert float(row["gradient_balanced_l1_alpha_0.5"]) == 1.5
    assert float(row["loss_smooth_l1"]) == pytest.approx(float(row["error"]) - 0.5, abs=1e-5)


@pytest.mark.parametrize("record", [RECORD, EMPTY], ids=["some boxes", "none"])
def test_pictures_are_written(record, tmp_path):
    style.save(plot_balance(record), tmp_path / "new" / "balance.png", dpi=50)
    errors = record.errors if len(record.negatives) else torch.zeros(0, 4)
    style.save(plot_balanced_l1(PAPER, errors), tmp_path / "loss.png", dpi=50)
    for path in (tmp_path / "new" / "balance.png", tmp_path / "loss.png"):
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 10


def test_detections_and_ground_truth_are_both_visible(tmp_path):
    black = np.zeros((60, 80, 3), dtype=np.uint8)
    truth, found = np.array([[10.0, 10, 30, 40]]), np.array([[45.0, 10, 70, 40]])
    none, no_scores = np.zeros((0, 4)), np.zeros(0)
    pictures = {}
    for name, scene in {
        "both": Scene(black, truth, found, np.array([0.9]), ["tree"]),
        "truth": Scene(black, truth, none, no_scores, []),
        "nothing": Scene(black, none, none, no_scores, []),
    }.items():
        style.save(plot_detections([scene]), tmp_path / f"{name}.png", dpi=60)
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    white_lines = (pictures["truth"] - pictures["nothing"]).min(axis=2) > 150
    yellow_lines = (pictures["both"] - pictures["truth"])[..., 0] > 150
    width = pictures["both"].shape[1]
    assert white_lines[:, : width // 2].any()
    assert not white_lines[:, width // 2 :].any()
    assert yellow_lines[:, width // 2 :].any()
    assert not yellow_lines[:, : width // 2].any()
