"""Mixed precision: which of Detectron2's steps runs in which type."""

import pytest
import torch
from detectron2.engine import AMPTrainer

from libra_d2.engine.amp import build_stepper
from tests.engine.runs import train
from tests.engine.tiny import LIBRA

AMP = {"SOLVER": {"AMP": {"ENABLED": True}}, "MODEL": {"LIBRA": {"TRAIN": {"AMP_DTYPE": "bfloat16"}}}}


@pytest.mark.parametrize("architecture", [LIBRA, {"META_ARCHITECTURE": "LibraRetinaNet"}], ids=["R-CNN", "RetinaNet"])
def test_bfloat16_trains_on_the_cpu_close_to_float32(architecture, config):
    libra = {**architecture.get("LIBRA", {}), "TRAIN": {"AMP_DTYPE": "bfloat16"}}
    whole, _ = train(config("whole", MODEL=architecture))
    mixed, trainer = train(config("mixed", SOLVER=AMP["SOLVER"], MODEL={**architecture, "LIBRA": libra}))
    assert mixed[0] != whole[0], "it was computed in float32"
    assert mixed[0] == pytest.approx(whole[0], rel=0.02)
    assert mixed == pytest.approx(whole, rel=0.3), "later, other proposals are drawn"
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_the_model_alone_is_in_autocast_and_while_it_trains_alone(config):
    seen = []
    layer = torch.nn.Linear(1, 1)
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    step = build_stepper(config(**AMP), torch.nn.Sequential(layer), None, None)
    assert step.model(torch.ones(1)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(TypeError):
        step.model("no tensor")
    assert not torch.is_autocast_enabled("cpu"), "after an error"
    assert step.model.eval()(torch.ones(1)).dtype == torch.float32
    assert seen == [True, True, False]


def test_a_resume_has_the_same_losses(config):
    options = {**AMP, "SOLVER": {**AMP["SOLVER"], "CHECKPOINT_PERIOD": 3}}
    whole, _ = train(config("whole", **options))
    train(config("cut", **options), stop_before=4)
    rest, _ = train(config("cut", **options), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in (3, 4, 5)}, rel=1e-5)


@pytest.mark.parametrize(("dtype", "is_scaled"), [("float16", True), ("bfloat16", False)])
def test_on_cuda_it_is_detectron2s(dtype, is_scaled, config, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = config(opts=["MODEL.DEVICE", "cuda", "MODEL.LIBRA.TRAIN.AMP_DTYPE", dtype], SOLVER=AMP["SOLVER"])
    step = build_stepper(cfg, torch.nn.Linear(1, 1), None, None)
    assert isinstance(step, AMPTrainer)
    assert step.precision == getattr(torch, dtype)
    assert step.grad_scaler.is_enabled() == is_scaled
