"""A LazyConfig builds the very model of its yaml twin."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from libra_d2.config.files import config_folder, load_config
from tests.modeling.builders import batch

LAZY = config_folder() / "lazy"
FILES = sorted(path.relative_to(LAZY).as_posix() for path in LAZY.rglob("libra_*.py"))


def twins(name, device="cpu"):
    cfg = load_config(name.replace(".py", ".yaml"), ["MODEL.DEVICE", "cpu"])
    lazy, recipe = LazyConfig.load(str(LAZY / name), ("model", "recipe"))
    assert recipe == name.replace(".py", ".yaml")
    with torch.device(device):
        cfg.MODEL.DEVICE = device
        return instantiate(lazy).to(device), build_model(cfg)


def test_those_of_the_issue_are_there():
    assert {f"libra_{kind}_R_50_FPN_1x.py" for kind in ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "retinanet")} <= {
        *FILES
    }
    fine_tuning = {f"finetune/{path.stem}.py" for path in (config_folder() / "finetune").glob("libra_*.yaml")}
    assert fine_tuning <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_it_has_the_tensors_of_its_twin_and_trains_the_same(name):
    lazy, other = twins(name, device="meta")
    for tensors in ("state_dict", "named_parameters"):
        of_lazy, of_other = (dict(getattr(model, tensors)()) for model in (lazy, other))
        assert list(of_lazy) == list(of_other)
        assert [t.shape for t in of_lazy.values()] == [t.shape for t in of_other.values()]
        assert [t.requires_grad for t in of_lazy.values()] == [t.requires_grad for t in of_other.values()]


@pytest.mark.parametrize("name", [name for name in FILES if "R_50" in name])
def test_it_has_the_losses_and_detections_of_its_twin(name):
    lazy, other = twins(name)
    other.load_state_dict(lazy.state_dict())
    inputs = batch(masks="mask" in name or "finetune/libra_cascade" in name)
    results = []
    for model in (lazy, other):
        with EventStorage(), torch.no_grad():
            torch.manual_seed(0)
            losses = model.train()(inputs)
            results.append((losses, model.eval()(inputs[:1])[0]["instances"]))
    (losses, found), (other_losses, other_found) = results
    assert losses == other_losses
    assert sum(losses.values()) > 0
    assert found.get_fields().keys() == other_found.get_fields().keys()
    torch.testing.assert_close(found.pred_boxes.tensor, other_found.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, other_found.scores)


@pytest.mark.parametrize("name", FILES)
def test_a_lazy_model_has_the_options_of_its_twin(name):
    """Those that the losses of random weights do not show, such as what is kept after NMS."""
    lazy, other = twins(name, device="meta")
    modules = dict(other.named_modules())
    unread = "box_reg_loss_type", "_is_full_backward_hook"  # there is a box_loss
    compared = 0
    for path, module in lazy.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, int | float | str | tuple) and key not in unread:
                assert value == getattr(modules[path], key), f"{path}.{key}"
                compared += 1
    assert compared > 100
