"""A predictor is a trained model: weights that were left at random are an error."""

import pytest
import torch
from detectron2.modeling import build_model

from libra_d2.inference import build_predictor
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
