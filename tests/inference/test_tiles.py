"""What is found in tiles is what is in the image, each object once, and evaluation and prediction see the same."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from libra_d2.checks import UserError
from libra_d2.inference import build_predictor, load_trained
from libra_d2.inference.tiles import TiledModel, best_of, check_tiles, in_tiles, shown_best, unresized
from tests.modeling.builders import small_cfg

FASTER, MASK = "libra_faster_rcnn_R_50_FPN_1x.yaml", "libra_mask_rcnn_R_50_FPN_1x.yaml"


class Rectangles(nn.Module):
    """Finds rectangles by their value, which is their class, and trusts those the most that it sees the most of."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.test_nms_thresh = 0.5

    def forward(self, batched_inputs):
        (inputs,) = batched_inputs
        image = inputs["image"][0]
        self.seen.append(inputs)
        masks = torch.stack([image == value for value in range(1, 7)])
        masks = masks[masks.flatten(1).any(1)]
        corners = [mask.nonzero() for mask in masks]
        boxes = [[*c.min(0).values.flip(0).tolist(), *(c.max(0).values.flip(0) + 1).tolist()] for c in corners]
        found = Instances(
            (inputs["height"], inputs["width"]),
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            scores=masks.flatten(1).sum(1) / 10_000,
            pred_classes=torch.tensor([int(image[c[0][0], c[0][1]]) for c in corners], dtype=torch.int64),
            pred_masks=masks,
        )
        return [{"instances": found}]


def rectangles(height=200, width=300):
    """Six of 30 x 20, everywhere in the image, and their boxes by value."""
    image = torch.zeros(3, height, width)
    places = [(0, 0), (270, 180), (75, 60), (130, 90), (200, 10), (10, 150)]
    for value, (x, y) in enumerate(places, 1):
        image[:, y : y + 20, x : x + 30] = value
    return image, {value: [x, y, x + 30, y + 20] for value, (x, y) in enumerate(places, 1)}


def tiles_cfg(size=100, overlap=0.4, *opts, config=FASTER):
    tiles = ("MODEL.LIBRA.TILES.SIZE", size, "MODEL.LIBRA.TILES.OVERLAP", overlap)
    return small_cfg(config, *tiles, "INPUT.MIN_SIZE_TEST", 0, *opts)


def predict(model, image):
    return model([{"image": image, "height": image.shape[1], "width": image.shape[2]}])[0]["instances"]


def test_each_object_is_found_once_where_it_is():
    image, boxes = rectangles()
    found = predict(TiledModel(tiles_cfg(), Rectangles()), image)
    assert dict(zip(found.pred_classes.tolist(), found.pred_boxes.tensor.tolist(), strict=True)) == boxes
    assert len(found) == len(boxes)
    assert found.image_size == (200, 300)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    for value, mask in zip(found.pred_classes.tolist(), found.pred_masks, strict=True):
        assert torch.equal(mask, image[0] == value)


def test_tiles_are_of_the_size_that_is_asked_for_and_overlap_as_much():
    model = Rectangles()
    predict(TiledModel(tiles_cfg(100, 0.4), model), rectangles()[0])
    assert {inputs["image"].shape for inputs in model.seen} == {(3, 100, 100)}
    assert len(model.seen) == 3 * 5  # from 0, 60 and 100; from 0, 60, 120, 180 and 200
    model.seen.clear()
    predict(TiledModel(tiles_cfg(100, 0.0), model), rectangles()[0])
    assert len(model.seen) == 2 * 3
    model.seen.clear()
    predict(TiledModel(tiles_cfg(250, 0.2), model), rectangles()[0])
    assert {inputs["image"].shape for inputs in model.seen} == {(3, 200, 250)}


def test_an_image_no_larger_than_a_tile_goes_in_one_piece():
    model, (image, _) = Rectangles(), rectangles()
    found = predict(TiledModel(tiles_cfg(300), model), image)
    assert [inputs["image"].shape for inputs in model.seen] == [(3, 200, 300)]
    expected = predict(Rectangles(), image)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_nothing_in_any_tile_is_nothing():
    found = predict(TiledModel(tiles_cfg(), Rectangles()), torch.zeros(3, 200, 300))
    assert len(found) == 0
    assert found.has("pred_masks")


def test_an_object_that_no_tile_shows_whole_is_found_in_parts():
    image = torch.zeros(3, 100, 160)
    image[:, 20:80, 50:140] = 1  # tiles from 0 and 60 share 40 pixels
    found = predict(TiledModel(tiles_cfg(), Rectangles()), image)
    assert sorted(found.pred_boxes.tensor.tolist()) == [[50, 20, 100, 80], [60, 20, 140, 80]]


def test_what_a_tile_shows_best():
    tiles = torch.tensor([[0, 0, 100, 100], [60, 0, 160, 100]])
    boxes = [
        [10, 0, 30, 100],
        [80, 10, 100, 20],
        [80, 10, 100, 20],
        [70, 10, 99, 20],
        [61, 10, 99, 20],
        [90, 0, 160, 9],
    ]
    places = tiles[[0, 0, 1, 0, 0, 1]]
    shown = shown_best(torch.tensor(boxes, dtype=torch.float32), places, tiles, (100, 160), 2.5)
    #      away from it, cut, the same whole, nearly cut, nearly so in both, at borders of the image
    assert shown.tolist() == [True, False, True, False, True, True]


def found_at(boxes, scores, classes):
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes),
    )


def test_the_best_of_a_class_is_kept():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8], [0, 0, 10, 4]]
    found = found_at(boxes, [0.5, 0.9, 0.3, 0.1], [0, 0, 1, 0])
    assert best_of(found, 0.5).scores.tolist() == pytest.approx([0.9, 0.3])
    assert best_of(found, 0.7).scores.tolist() == pytest.approx([0.9, 0.3, 0.1])
    assert best_of(found, 0.9).scores.tolist() == pytest.approx([0.9, 0.5, 0.3, 0.1])


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (FASTER, "MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        ("libra_cascade_rcnn_R_50_FPN_1x.yaml", "MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        ("libra_retinanet_R_50_FPN_1x.yaml", "MODEL.RETINANET.NMS_THRESH_TEST"),
    ],
)
def test_overlap_is_judged_as_the_model_does(config, key):
    cfg = tiles_cfg(100, 0.4, key, 0.35, config=config)
    assert TiledModel(cfg, build_model(cfg)).nms_threshold == 0.35


def test_the_mode_of_the_model_is_left_alone():
    for mode in (True, False):
        model = nn.Sequential(nn.Identity()).train(mode)
        tiled = TiledModel(tiles_cfg(), model)
        assert tiled.training == model.training == model[0].training == mode


def save(tmp_path, config, *opts):
    cfg = tiles_cfg(48, 0.25, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts, config=config)
    cfg.INPUT.MIN_SIZE_TEST = 64
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return cfg, pixels


def equal(one, other):
    torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
    torch.testing.assert_close(one.scores, other.scores)
    return len(one) == len(other) > 0


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_prediction_is_that_of_the_evaluation(tmp_path, input_format):
    cfg, pixels = save(tmp_path, MASK, "INPUT.FORMAT", input_format)
    record = {"file_name": str(tmp_path / "image.png"), "height": 70, "width": 100}
    with torch.no_grad():
        inputs = DatasetMapper(unresized(cfg), is_train=False)(record)
        evaluated = in_tiles(cfg, load_trained(cfg))([inputs])[0]["instances"]
    predicted = build_predictor(cfg)(pixels[:, :, ::-1])["instances"]
    assert equal(predicted, evaluated)
    assert np.array_equal(predicted.pred_masks[:3], evaluated.pred_masks[:3])
    assert predicted.pred_masks[0].shape == (70, 100)


def test_a_tile_is_predicted_on_as_an_image_of_its_own(tmp_path):
    cfg, pixels = save(tmp_path, FASTER)
    tiled = build_predictor(cfg)(pixels)["instances"]
    cfg.MODEL.LIBRA.TILES.SIZE = 0
    whole = build_predictor(cfg)
    corner = whole(pixels[22:, 52:])["instances"]  # the last tile: 48 x 48
    best = corner.pred_boxes.tensor[0] + torch.tensor([52, 22, 52, 22])
    assert (tiled.pred_boxes.tensor - best).abs().max(1).values.min() < 1e-3
    assert len(tiled) > len(corner)
    assert whole.aug.short_edge_length == [64, 64]


def test_tiles_can_be_augmented(tmp_path):
    cfg, pixels = save(tmp_path, FASTER, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48,))
    found = build_predictor(cfg)(pixels)["instances"]
    assert len(found) > 0
    assert found.image_size == (70, 100)


def test_without_tiles_nothing_is_touched():
    cfg, model = small_cfg(FASTER), nn.Identity()
    check_tiles(cfg)
    assert in_tiles(cfg, model) is model
    assert unresized(cfg) is cfg


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.LIBRA.TILES.OVERLAP", 1.0), "TILES.OVERLAP: expected a part of a tile, from 0 to below 1, got 1.0"),
        (("MODEL.LIBRA.TILES.OVERLAP", -0.1), "TILES.OVERLAP: expected a part"),
        (("MODEL.LIBRA.TILES.OVERLAP", float("nan")), "TILES.OVERLAP: expected a part"),
        (("MODEL.LIBRA.TILES.SIZE", -640), "TILES.SIZE: expected pixels, or 0 for whole images, got -640"),
        (("MODEL.LOAD_PROPOSALS", True), "TILES.SIZE: expected 0 with MODEL.LOAD_PROPOSALS True, .* got 100"),
        (("MODEL.KEYPOINT_ON", True), "TILES.SIZE: expected 0 with MODEL.KEYPOINT_ON True"),
    ],
)
def test_what_cannot_be_is_one_sentence(opts, message):
    with pytest.raises(UserError, match=message):
        build_predictor(tiles_cfg(100, 0.2, *opts))


def test_a_missing_package_is_named_with_the_extra_that_has_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "sahi" else find(name))
    with pytest.raises(UserError, match=r"--tile needs sahi: pip install 'libra_d2\[tiles\]'$"):
        build_predictor(tiles_cfg())
    check_tiles(tiles_cfg(0))


def test_nobody_else_needs_it(monkeypatch):
    for name in ("sahi", "shapely"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an ImportError
    spec = importlib.util.find_spec("libra_d2.inference.tiles")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
