import csv

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.visualize import style
from libra_d2.visualize.pyramid import measure_levels, plot_levels, write_levels_csv
from tests.modeling.builders import batch, small_cfg


def test_each_level_before_and_after(tmp_path):
    torch.manual_seed(0)
    model = build_model(small_cfg()).train()
    statistics = measure_levels(model, [batch(1), batch(1, seed=1)])
    assert model.training
    assert list(statistics) == ["p2", "p3", "p4", "p5", "p6"]

    model.eval()
    squares, means = [], []
    for inputs in (batch(1), batch(1, seed=1)):
        image = model.preprocess_image(inputs).tensor
        with torch.no_grad():
            before, after = model.backbone.bottom_up(image)["p3"], model.backbone(image)["p3"]
        squares.append([float((x**2).mean()) for x in (before, after - before, after)])
        means.append([float(before.mean()), float(after.mean())])
    expected = [*np.sqrt(np.mean(squares, axis=0)), *np.mean(means, axis=0)]
    assert list(vars(statistics["p3"]).values()) == pytest.approx(expected)

    write_levels_csv(statistics, tmp_path / "levels.csv")
    rows = list(csv.DictReader((tmp_path / "levels.csv").open()))
    assert float(rows[1]["residual"]) == pytest.approx(expected[1], rel=1e-5)
    style.save(plot_levels(statistics), tmp_path / "levels.png")
    assert Image.open(tmp_path / "levels.png").size[0] > 500


def test_it_takes_a_pyramid_and_images():
    plain = build_model(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", "MODEL.LIBRA.BFP.ENABLED", False))
    with pytest.raises(ValueError, match="BalancedFeaturePyramid, got FPN"):
        measure_levels(plain, [batch(1)])
    with pytest.raises(ValueError, match="at least one batch"):
        measure_levels(build_model(small_cfg()), [])
