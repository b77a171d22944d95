import logging

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.meta_arch import retinanet
from fvcore.nn import sigmoid_focal_loss

from libra_d2.checks import UserError
from libra_d2.engine import LibraTrainer
from libra_d2.inference.tiles import in_tiles
from tests.engine.runs import train
from tests.engine.tiny import LIBRA


@pytest.mark.parametrize(
    ("architecture", "eval_period"),
    [(LIBRA, 3), ({"META_ARCHITECTURE": "RetinaNet"}, 0)],
    ids=["Libra Faster R-CNN, evaluated on the way", "RetinaNet, which has a loss normaliser"],
)
def test_losses_after_a_resume_are_those_without_interruption(architecture, eval_period, config, monkeypatch):
    # TorchScript optimises a function after its first calls, and on some processors that changes the last bit: any two
    # trainings in one process then differ, and one bit can take a ReLU to the other side of 0.
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss_jit", sigmoid_focal_loss)
    overrides = {"MODEL": architecture, "TEST": {"EVAL_PERIOD": eval_period}, "SOLVER": {"CHECKPOINT_PERIOD": 3}}
    whole, reference = train(config("whole", **overrides))
    assert len(set(whole.values())) == 6, "every iteration has another loss, or the comparison says nothing"
    train(config("cut", **overrides), stop_before=4)
    rest, resumed = train(config("cut", **overrides), resume=True)
    assert rest == pytest.approx({i: whole[i] for i in (3, 4, 5)}, rel=1e-5)
    # what is logged are medians over the last iterations, before the interruption too
    medians = [t.storage.latest_with_smoothing_hint()["total_loss"] for t in (reference, resumed)]
    assert medians[0] == pytest.approx(medians[1], rel=1e-5)


def test_a_resume_without_a_seed_goes_on_in_the_same_data(config):
    overrides = {"SEED": -1, "SOLVER": {"CHECKPOINT_PERIOD": 3}}
    _, first = train(config("cut", **overrides), stop_before=4)
    _, resumed = train(config("cut", **overrides), resume=True)
    assert resumed.data_loader.state_dict() == first.data_loader.state_dict()
    _, other = train(config("other", opts=["SOLVER.MAX_ITER", 1], SEED=-1))
    assert other.data_loader.state_dict() != first.data_loader.state_dict()


def test_the_checkpoint_holds_nothing_but_tensors_and_plain_values(config, tmp_path):
    train(config(opts=["SOLVER.MAX_ITER", 1]))
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert {"RankState", "RecentScalars"} <= set(content["trainer"]["hooks"])


def test_a_resume_with_another_number_of_ranks_says_so(config, tmp_path, caplog):
    overrides = {"SOLVER": {"CHECKPOINT_PERIOD": 3}}
    train(config("cut", **overrides), stop_before=4)
    file = tmp_path / "cut" / "model_0000002.pth"
    content = torch.load(file)
    content["trainer"]["hooks"]["RankState"]["ranks"] *= 2
    torch.save(content, file)
    with caplog.at_level(logging.WARNING, "libra_d2"):
        losses, _ = train(config("cut", **overrides), resume=True)
    assert "random states of 2 ranks after iteration 2, training goes on with 1 ranks" in caplog.text
    assert set(losses) == {3, 4, 5}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_gate_alone_has_no_weight_decay(optimizer, config):
    cfg = config(opts=["SOLVER.OPTIMIZER", optimizer, "MODEL.RESNETS.NORM", "FrozenBN"], MODEL=LIBRA)
    model = LibraTrainer.build_model(cfg)
    built = LibraTrainer.build_optimizer(cfg, model)
    assert type(built) is getattr(torch.optim, optimizer)
    without = [p for group in built.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert [p is model.backbone.gate for p in without] == [True]
    trained = sum(len(group["params"]) for group in built.param_groups)
    assert trained == sum(p.requires_grad for p in model.parameters())
    assert {group["lr"] for group in built.param_groups} == {cfg.SOLVER.BASE_LR}


def test_an_unknown_optimizer_is_refused(config):
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER: expected one of SGD, AdamW, got 'Adam'"):
        LibraTrainer.build_optimizer(config(opts=["SOLVER.OPTIMIZER", "Adam"]), torch.nn.Linear(1, 1))


def test_gradient_clipping_holds_for_adamw_too(config):
    opts = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5]
    layer = torch.nn.Linear(1, 1)
    optimizer = LibraTrainer.build_optimizer(config(opts=opts), layer)
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, 100)
    optimizer.step()
    assert layer.weight.grad.item() == 0.5


@pytest.mark.parametrize(("kept", "counted"), [(50, 100), (100, 100), (300, 300)])
def test_ap_counts_as_many_detections_as_the_config_keeps(kept, counted, config):
    cfg = config(opts=["TEST.DETECTIONS_PER_IMAGE", kept])
    assert LibraTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])._max_dets_per_image == [1, 10, counted]


def test_a_resumed_run_goes_on_at_the_learning_rate_that_is_asked_for(config):
    overrides = {"SOLVER": {"CHECKPOINT_PERIOD": 3, "WARMUP_ITERS": 0, "STEPS": [5], "WEIGHT_DECAY": 0.0}}
    train(config("cut", **overrides), stop_before=4)
    solver = {**overrides["SOLVER"], "BASE_LR": 0.001, "WEIGHT_DECAY": 0.5}
    _, resumed = train(config("cut", SOLVER=solver), resume=True)
    assert resumed.storage.history("lr").values()[-3:] == [(0.001, 3), (0.001, 4), (pytest.approx(0.0001), 5)]
    assert {group["weight_decay"] for group in resumed.optimizer.param_groups} >= {0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SOLVER": {"OPTIMIZER": "AdamW"}}, "expected SOLVER.OPTIMIZER SGD, as in the checkpoint, got AdamW; resume"),
        ({"MODEL": {"BACKBONE": {"FREEZE_AT": 5}}}, r"trained parameters, as in the checkpoint, .*BACKBONE.FREEZE_AT"),
    ],
)
def test_a_resume_that_cannot_go_on_says_so(config, change, message):
    train(config("cut", SOLVER={"CHECKPOINT_PERIOD": 3}), stop_before=4)
    with pytest.raises(UserError, match=message):
        train(config("cut", **change), resume=True)


def test_augmented_evaluation_is_detectron2s(config):
    cfg = config(opts=["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 64)], MODEL=LIBRA)
    trainer = LibraTrainer(cfg)
    kinds = [type(hook).__name__ for hook in trainer._hooks]
    assert kinds.count("EvalHook") == 2
    assert kinds.index("PeriodicWriter") > max(i for i, kind in enumerate(kinds) if kind == "EvalHook")
    results = trainer.test_with_TTA(cfg, trainer.model)
    assert list(results) == ["bbox_TTA"]
    assert "AP50" in results["bbox_TTA"]


class Kept(DatasetEvaluator):
    """What an evaluation gives to its evaluators."""

    def __init__(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += zip(inputs, outputs, strict=True)


def test_evaluation_in_tiles_is_that_of_whole_images_read_as_they_are(config):
    opts = ["MODEL.LIBRA.TILES.SIZE", 48, "INPUT.MIN_SIZE_TEST", 80, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    cfg, kept = config(opts=opts), Kept()
    model = LibraTrainer.build_model(cfg).eval()
    LibraTrainer.test(cfg, model, [kept])
    assert [tuple(inputs["image"].shape) for inputs, _ in kept.seen] == [(3, 64, 96)] * 2
    for inputs, outputs in kept.seen:
        with torch.no_grad():
            expected = in_tiles(cfg, model)([inputs])[0]["instances"]
        assert torch.equal(outputs["instances"].scores, expected.scores)
        assert outputs["instances"].image_size == (64, 96)
    assert not model.training
