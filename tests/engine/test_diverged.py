"""A diverged run says what it diverged on, and what to do."""

import logging
import re

import pytest
import torch
from detectron2.engine import HookBase

from libra_d2.engine.hooks import DivergedError
from libra_d2.engine.step_dump import replay_step
from tests.engine.runs import train

MASK = {"MASK_ON": True}
RETINANET = {"META_ARCHITECTURE": "RetinaNet"}


class Spoil(HookBase):
    """Makes the weights or the learning rate bad before one step."""

    def __init__(self, at, **how):
        self._at, self._how = at, how

    def before_step(self):
        if self.trainer.iter == self._at:
            for group in self.trainer._trainer.optimizer.param_groups:
                group["lr"] = self._how.get("lr", group["lr"])
            if "weights" in self._how:
                for parameter in self.trainer.model.parameters():
                    torch.nn.init.constant_(parameter, self._how["weights"])


def diverge(cfg, *spoil):
    with pytest.raises(DivergedError) as error:
        train(cfg, *spoil)
    return str(error.value)


def test_the_iteration_images_losses_checkpoint_and_remedy_are_named(config, data):
    """A step of this size leaves weights that are not finite, which the step after notices."""
    text = diverge(config("out", SOLVER={"CHECKPOINT_PERIOD": 3}), Spoil(4, lr=1e38))
    assert re.match(
        r"training has diverged: the weights are not finite after iteration 4, on rank 0 with the images", text
    )
    images = re.findall(rf"(\d) \({data[0][1]}/00(\d).png\)", text)
    assert len(images) == 2
    assert all(image_id == name for image_id, name in images)
    assert re.search(
        r"its losses are loss_cls \d\S+, loss_box_reg \d\S+, loss_rpn_cls \d\S+, loss_rpn_loc \d\S+\. ", text
    )
    assert "Reduce SOLVER.BASE_LR (now 0.005) or set SOLVER.CLIP_GRADIENTS.ENABLED True" in text
    assert re.search(r"continue with --resume from \S+/out/model_0000002.pth, the last good checkpoint", text)


def test_losses_that_are_not_finite_are_those_of_the_step_itself(config):
    text = diverge(config(MODEL=RETINANET), Spoil(1, weights=1e30))
    assert "the losses are not finite in iteration 1, on rank 0" in text
    assert re.search(r"its losses are .*(nan|inf)", text)
    assert "and start over; MODEL.LIBRA.TRAIN.DUMP_DIVERGED True would keep" in text


def test_weights_that_are_not_finite_are_noticed_before_they_are_saved(config, tmp_path):
    text = diverge(config("out", SOLVER={"CHECKPOINT_PERIOD": 1}), Spoil(2, lr=1e38))
    assert "the weights are not finite after iteration 2" in text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.pth")) == ["model_0000000.pth", "model_0000001.pth"]


def test_a_resumed_run_does_not_begin_with_weights_that_are_finite_and_beyond_help(config, tmp_path):
    """The third update leaves weights whose losses are finite and huge; the one after that, weights that are not."""
    cfg = config("out", SOLVER={"CHECKPOINT_PERIOD": 1})
    text = diverge(cfg, Spoil(2, lr=1e6), Spoil(3, lr=1e38))
    assert (tmp_path / "out" / "model_0000002.pth").exists()
    assert "out/model_0000001.pth, the last good checkpoint" in text
    losses, _ = train(cfg, resume=True)
    assert set(losses) == {2, 3, 4, 5}


@pytest.mark.parametrize("model", [{}, MASK, RETINANET], ids=["boxes", "masks", "RetinaNet"])
def test_the_dump_reproduces_the_step(model, config, tmp_path):
    opts = ["MODEL.LIBRA.TRAIN.DUMP_DIVERGED", True]
    text = diverge(config("out", opts, MODEL=model, SOLVER={"CHECKPOINT_PERIOD": 1}), Spoil(2, lr=1e38))
    file = tmp_path / "out" / "diverged_rank0.pth"
    assert f"{file} reproduces the step" in text
    said = dict(re.findall(r"(loss_\w+) (\S+?)[,.] ", text[text.index("its losses") :]))
    losses = replay_step(file)
    assert set(said) == set(losses)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(said[name]), rel=1e-3, nan_ok=True), name


def test_the_traceback_is_in_the_log(config, caplog):
    with caplog.at_level(logging.ERROR, "detectron2"):
        diverge(config(MODEL=RETINANET), Spoil(1, weights=1e30))
    assert any(record.exc_info for record in caplog.records)
