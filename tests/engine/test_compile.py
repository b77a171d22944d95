"""Parts of the model under torch.compile: the losses of eager mode, and the same checkpoint."""

import functools

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel

from libra_d2.checks import UserError
from libra_d2.engine import LibraTrainer, trainer
from libra_d2.engine.compile import compile_parts
from tests.engine.runs import train
from tests.engine.tiny import LIBRA

COMPILE = ["MODEL.LIBRA.TRAIN.COMPILE", ["bfp", "box_head"]]


@pytest.fixture
def counter():
    """Stands for Inductor, without its compiler: tests/modeling/backbone/test_bfp_compiled.py goes on from it."""
    torch.compiler.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()


def test_losses_averages_and_a_resume_are_those_of_eager_mode(counter, config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "compile_parts", functools.partial(compile_parts, backend=counter))
    ema = ["MODEL.LIBRA.TRAIN.EMA_DECAY", 0.5]
    overrides = {"MODEL": LIBRA, "SOLVER": {"MAX_ITER": 3, "STEPS": [], "WARMUP_ITERS": 0, "CHECKPOINT_PERIOD": 2}}
    eager, _ = train(config("eager", opts=ema, **overrides))
    assert counter.frame_count == 0
    first, _ = train(config("compiled", opts=ema + COMPILE, **overrides), stop_before=2)
    rest, _ = train(config("compiled", opts=ema + COMPILE, **overrides), resume=True)
    assert counter.frame_count >= 2
    assert {**first, **rest} == pytest.approx(eager, rel=1e-5)
    for file in ("model_final.pth", "model_final_ema.pth"):
        expected, found = (torch.load(tmp_path / name / file)["model"] for name in ("eager", "compiled"))
        assert list(found) == list(expected)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_compiled_model_inside_distributed_data_parallel_has_the_losses_of_eager_mode(counter, config):
    cfg = config(opts=COMPILE, MODEL=LIBRA)
    data = next(iter(LibraTrainer.build_train_loader(cfg)))
    model = LibraTrainer.build_model(cfg)

    def losses(model):
        torch.manual_seed(0)
        with EventStorage():
            found = model(data)
        sum(found.values()).backward()
        return {name: loss.item() for name, loss in found.items()}

    expected = losses(model)
    model.zero_grad()
    compile_parts(cfg, model, backend=counter)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = losses(DistributedDataParallel(model))
    finally:
        dist.destroy_process_group()
    assert found == pytest.approx(expected, rel=1e-5)
    assert counter.frame_count >= 2
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_part_that_the_model_lacks_is_refused(config):
    cfg = config(opts=["MODEL.LIBRA.TRAIN.COMPILE", ["bfp"]])
    with pytest.raises(UserError, match="COMPILE: expected parts of this model, got 'bfp', which Gener.* lacks"):
        LibraTrainer(cfg)
