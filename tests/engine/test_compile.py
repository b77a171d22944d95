"""Parts of the model under torch.compile: the losses of eager mode, and the same checkpoint."""

import functools

import pytest
import torch

from libra_d2.checks import UserError
from libra_d2.engine import LibraTrainer, trainer
from libra_d2.engine.compile import compile_parts
from tests.engine.runs import train
from tests.engine.test_trainer import LIBRA


# "eager" traces alone: graphs break there. tests/modeling/backbone/test_bfp_compiled.py goes on from it.
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.compiler)])
def test_the_losses_are_those_of_eager_mode(backend, config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "compile_parts", functools.partial(compile_parts, backend=backend))
    solver = {"MAX_ITER": 2, "STEPS": [], "WARMUP_ITERS": 0}
    eager, _ = train(config("eager", MODEL=LIBRA, SOLVER=solver))
    torch.compiler.reset()
    with_key = ["MODEL.LIBRA.TRAIN.COMPILE", ["bfp", "box_head"]]
    compiled, run = train(config("compiled", opts=with_key, MODEL=LIBRA, SOLVER=solver))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert compiled == pytest.approx(eager, rel=1e-5)
    states = [torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("eager", "compiled")]
    assert list(states[0]) == list(states[1])
    torch.testing.assert_close(states[1], states[0], rtol=1e-3, atol=1e-4)


def test_a_part_that_the_model_lacks_is_refused(config):
    cfg = config(opts=["MODEL.LIBRA.TRAIN.COMPILE", ["bfp"]])
    with pytest.raises(UserError, match="COMPILE: expected parts of this model, got 'bfp', which Gener.* lacks"):
        LibraTrainer(cfg)
