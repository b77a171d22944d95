"""The moving average of the weights: what it is, that it is evaluated and saved, and that a resume continues it."""

import json

import pytest
import torch
from detectron2.engine import HookBase

from libra_d2.inference import load_trained
from tests.engine.runs import train

DECAY = 0.6
OPTIONS = {
    "TEST": {"EVAL_PERIOD": 3},
    "SOLVER": {"CHECKPOINT_PERIOD": 3},
    "MODEL": {"LIBRA": {"TRAIN": {"EMA_DECAY": DECAY, "BEST_METRIC": "bbox_EMA/AP"}}},
}


class Weights(HookBase):
    """Averages the weights as the definition says."""

    average = None

    def after_step(self):
        now = {name: value.double() for name, value in self.trainer.checkpointer.model.state_dict().items()}
        before = self.average or now
        self.average = {name: DECAY * before[name] + (1 - DECAY) * value for name, value in now.items()}


def test_it_is_the_average_of_the_weights_after_each_step(config, tmp_path):
    _, trainer = train(config(**OPTIONS), reference := Weights())
    saved = torch.load(tmp_path / "out" / "model_final_ema.pth", weights_only=True)
    assert saved["class_names"] == ["green", "red", "blue"]
    floats = {name: value for name, value in saved["model"].items() if value.is_floating_point()}
    assert "backbone.bottom_up.stem.conv1.norm.running_mean" in floats
    for name, value in floats.items():
        torch.testing.assert_close(value, reference.average[name].float(), msg=lambda m, name=name: f"{name}: {m}")
    raw = torch.load(tmp_path / "out" / "model_final.pth")["model"]
    assert any((raw[name] != value).any() for name, value in floats.items())
    assert not any(p.requires_grad for p in trainer.averaged.parameters())


def test_it_is_evaluated_beside_the_weights_and_can_be_the_best(config, tmp_path):
    cfg = config(**OPTIONS)
    _, trainer = train(cfg)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "bbox_EMA/AP" in line and "bbox/AP" in line] == [2, 6]
    assert (tmp_path / "out" / "inference_EMA" / "coco_instances_results.json").exists()
    iteration = torch.load(tmp_path / "out" / "model_best.pth")["iteration"]
    assert iteration in (2, 6)
    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final_ema.pth")
    loaded = load_trained(cfg)
    torch.testing.assert_close(loaded.state_dict(), trainer.averaged.module.state_dict(), rtol=0, atol=0)


def test_a_resume_continues_it(config):
    whole, reference = train(config("whole", **OPTIONS))
    train(config("cut", **OPTIONS), stop_before=4)
    rest, resumed = train(config("cut", **OPTIONS), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in (3, 4, 5)}, rel=1e-5)
    assert resumed.averaged.n_averaged == 6
    torch.testing.assert_close(resumed.averaged.state_dict(), reference.averaged.state_dict())


def test_the_weights_are_trained_as_without_it(config):
    plain, _ = train(config("plain"))
    averaged, _ = train(config("averaged", **OPTIONS))
    assert averaged == pytest.approx(plain, rel=1e-5)
