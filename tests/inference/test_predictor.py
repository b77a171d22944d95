"""A predictor is a trained model: weights that were left at random are an error."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image

from libra_d2.inference import build_predictor, load_trained
from tests.modeling.builders import small_cfg

CONFIG = "libra_faster_rcnn_R_50_FPN_1x.yaml"


def save(tmp_path, change, *opts):
    """A checkpoint of a model, and the config that names it."""
    cfg = small_cfg(CONFIG, *opts)
    state = change(build_model(cfg).state_dict())
    torch.save({"model": state}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    return cfg


def without(*parts):
    return lambda state: {name: value for name, value in state.items() if not any(part in name for part in parts)}


def plain(state):
    """As Detectron2's own model has it."""
    own = without("refine", "gate")(state)
    return {name.replace("backbone.bottom_up.", "backbone."): value for name, value in own.items()}


IDENTITY = ("MODEL.LIBRA.BFP.INIT", "identity")


@pytest.mark.parametrize("opts", [(), IDENTITY])
def test_its_own_checkpoint_is_taken_whole(tmp_path, opts):
    cfg = save(tmp_path, lambda state: state, *opts)
    saved = torch.load(cfg.MODEL.WEIGHTS)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in build_predictor(cfg).model.state_dict().items())


def test_a_plain_detectors_weights_do_where_the_pyramid_starts_as_the_identity(tmp_path):
    assert build_predictor(save(tmp_path, plain, *IDENTITY)).model.backbone.gate == 0


@pytest.mark.parametrize(
    ("change", "opts", "lacking"),
    [
        (plain, (), r"backbone.refine \(8\)"),
        (without("refine"), IDENTITY, r"backbone.refine \(8\)"),  # its gate is open
        (without("bbox_pred"), (), r"roi_heads.box_predictor \(2\)"),
    ],
)
def test_weights_left_at_random_are_an_error(tmp_path, change, opts, lacking):
    with pytest.raises(ValueError, match=f"it lacks {lacking}"):
        build_predictor(save(tmp_path, change, *opts))


def test_another_list_of_classes_than_that_of_the_weights_is_refused(tmp_path):
    cfg = save(tmp_path, lambda state: state)
    content = torch.load(cfg.MODEL.WEIGHTS)
    torch.save({**content, "class_names": ["a", "b", "c", "d", "e"]}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["a", "b", "c", "d", "e"]
    load_trained(cfg)
    cfg.MODEL.LIBRA.DATA.CLASS_NAMES = ["a", "b", "c", "e", "d"]
    with pytest.raises(ValueError, match=r"trained on the classes \['a', .*'e'\], the config has \['a', .*'d'\]"):
        load_trained(cfg)
    load_trained(cfg, parts=("backbone.", "proposal_generator."))  # an RPN knows no classes


GREY = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[110.0]", "MODEL.PIXEL_STD", "[60.0]")
YUV = ("INPUT.FORMAT", "YUV-BT.601", "MODEL.PIXEL_MEAN", "[0.5, 0.0, 0.0]", "MODEL.PIXEL_STD", "[0.2, 0.2, 0.2]")


@pytest.mark.parametrize("opts", [GREY, YUV, ("INPUT.FORMAT", "RGB"), ()])
def test_the_model_gets_images_in_the_format_that_training_reads(tmp_path, opts):
    cfg = save(tmp_path, lambda state: state, "INPUT.MIN_SIZE_TEST", "0", *opts)
    predictor = build_predictor(cfg)
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]["image"]))
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(file)
    assert "instances" in predictor(read_image(str(file), "BGR"))
    expected = read_image(str(file), cfg.INPUT.FORMAT).astype("float32")
    assert np.array_equal(seen[0].numpy().transpose(1, 2, 0), expected)


def test_a_format_that_nothing_reads_is_refused(tmp_path):
    cfg = save(tmp_path, lambda state: state)
    cfg.INPUT.FORMAT = "CMYK"
    with pytest.raises(ValueError, match=r"INPUT.FORMAT: expected one of \['BGR', 'RGB', 'L', .*\], got 'CMYK'"):
        build_predictor(cfg)
