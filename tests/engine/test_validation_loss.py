"""The losses on the validation images: what they are, where they are reported, and that training does not notice."""

import copy
import json

import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling.meta_arch import retinanet
from detectron2.utils.events import EventStorage
from fvcore.nn import sigmoid_focal_loss

from libra_d2.checks import UserError
from libra_d2.data.validation_loader import build_validation_loader
from libra_d2.engine import LibraTrainer
from libra_d2.engine.validation_loss import ValidationLoss
from tests.engine.runs import train
from tests.engine.tiny import LIBRA


def options(images=-1, **more):
    ret = {"TEST": {"EVAL_PERIOD": 3}, "SOLVER": {"CHECKPOINT_PERIOD": 3}, "MODEL": {}, **more}
    ret["MODEL"] = {**ret["MODEL"], "LIBRA": {**ret["MODEL"].get("LIBRA", {}), "TRAIN": {"VALIDATION_LOSS": images}}}
    return ret


def reported(folder, prefix="validation_loss/"):
    """{iteration: {name: loss}} of metrics.json."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    found = {line["iteration"]: {k: v for k, v in line.items() if k.startswith(prefix)} for line in lines}
    return {iteration: losses for iteration, losses in found.items() if losses}


def test_they_are_the_mean_losses_of_the_images(config, tmp_path):
    # Every anchor and proposal is sampled: nothing is left to draw.
    everything = [
        *["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6, "MODEL.RPN.POSITIVE_FRACTION", 1.0],
        *["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 10**4, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0],
    ]
    cfg = config(opts=everything, **options())
    _, trainer = train(cfg)
    mapper = DatasetMapper(is_train=True, augmentations=build_augmentation(cfg, False), image_format="BGR")
    loader = build_detection_test_loader(get_detection_dataset_dicts(cfg.DATASETS.TEST), mapper=mapper)
    model = trainer.model.train()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.eval()
    with torch.no_grad(), EventStorage():
        expected = [{name: loss.item() for name, loss in model(batch).items()} for batch in loader]
    found = reported(tmp_path / "out")
    assert list(found) == [2, 6], "of the evaluation on the way and of that at the end"
    means = {f"validation_loss/{name}": sum(of[name] for of in expected) / len(expected) for name in expected[0]}
    assert {"validation_loss/loss_rpn_cls", "validation_loss/loss_box_reg"} <= set(means)
    means["validation_loss/total_loss"] = sum(means.values())
    assert found[6] == pytest.approx(means, rel=1e-5)
    assert found[2] != pytest.approx(means, rel=1e-3)


@pytest.mark.parametrize("architecture", [LIBRA, {"META_ARCHITECTURE": "RetinaNet"}], ids=["Libra", "RetinaNet"])
def test_training_is_the_same_to_the_bit_with_and_without_them(architecture, config, monkeypatch):
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss_jit", sigmoid_focal_loss)  # see test_trainer.py
    without, plain = train(config("without", **options(0, MODEL=architecture)))
    with_them, watched = train(config("with", **options(MODEL=architecture)))
    assert with_them == without
    assert len(set(without.values())) == 6
    for name, value in plain.model.state_dict().items():
        assert torch.equal(watched.model.state_dict()[name], value), name
    assert getattr(watched.model, "loss_normalizer", 0) == getattr(plain.model, "loss_normalizer", 0)


@pytest.mark.parametrize("architecture", [LIBRA, {"META_ARCHITECTURE": "RetinaNet"}], ids=["Libra", "RetinaNet"])
def test_after_a_kill_they_are_those_of_an_uninterrupted_run(architecture, config, tmp_path, monkeypatch):
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss_jit", sigmoid_focal_loss)
    overrides = options(MODEL=architecture)
    overrides["MODEL"]["LIBRA"]["TRAIN"]["EMA_DECAY"] = 0.6
    train(config("whole", **overrides))
    train(config("cut", **overrides), stop_before=3)  # the evaluation after the checkpoint is made again
    first = reported(tmp_path / "cut", "validation_loss")
    (tmp_path / "cut" / "metrics.json").unlink()
    train(config("cut", **overrides), resume=True)
    whole, rest = (reported(tmp_path / run, "validation_loss") for run in ("whole", "cut"))
    assert {name.partition("/")[0] for name in whole[2]} == {"validation_loss", "validation_loss_EMA"}
    assert first == {2: pytest.approx(whole[2], rel=1e-5)}
    assert rest == {i: pytest.approx(whole[i], rel=1e-5) for i in (2, 6)}


def test_nothing_in_the_model_changes(config):
    class Restless(torch.nn.Module):
        """Computes with a state of its own, as a user's module may."""

        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("count", torch.zeros(1))
            self.layer, self.calls, self.drop = torch.nn.Linear(1, 1), 0, torch.nn.Dropout(0.5)

        def forward(self, batch):
            assert self.training
            assert not torch.is_grad_enabled()
            self.calls, self.new = self.calls + 1, True
            self.mean = self.mean + 1
            self.count += 1
            return {"loss": self.drop(torch.ones(1000)).mean() * self.calls + torch.rand(1).sum() * 0}

    cfg = config(**options())
    model = Restless().eval()
    model.layer.train()
    hooked = []
    model.register_forward_pre_hook(lambda *_: hooked.append(1))
    before = {**vars(model)}
    assert ValidationLoss(cfg, model).results(model) == {"validation_loss": {"total_loss": 1.0, "loss": 1.0}}
    assert vars(model) == before
    assert [model.mean.item(), model.count.item()] == [0, 0]
    assert [module.training for module in model.modules()] == [False, True, False]
    assert hooked == []


def test_an_image_always_draws_the_same(config):
    cfg = config(**options(MODEL=LIBRA))
    trainer = LibraTrainer(cfg)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(ValidationLoss(cfg, trainer.model).results(trainer.model))
    assert losses[0] == losses[1]


def test_the_normaliser_of_retinanet_is_that_of_training(config):
    cfg = config(**options(MODEL={"META_ARCHITECTURE": "RetinaNet"}))
    trained = LibraTrainer.build_model(cfg)
    averaged = copy.deepcopy(trained)  # it never was in a training step, and has none
    trained.loss_normalizer = 7.0
    losses = ValidationLoss(cfg, trained)
    assert losses.results(averaged) == losses.results(trained)
    assert not hasattr(averaged, "loss_normalizer")


def test_boxes_that_are_not_finite_do_not_end_the_run(config, caplog):
    cfg = config(**options())
    trainer = LibraTrainer(cfg)
    with torch.no_grad():
        trainer.model.proposal_generator.rpn_head.anchor_deltas.bias.fill_(float("inf"))
    losses = ValidationLoss(cfg, trainer.model).results(trainer.model)["validation_loss"]
    assert losses["total_loss"] != losses["total_loss"]
    assert "001.png are not finite" in caplog.text


def test_a_number_of_images_is_spread_over_the_data_set(config):
    cfg = config(**options())
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN  # of 8 images
    for limit, expected in [(-1, range(8)), (3, (0, 2, 5)), (100, range(8))]:
        batches = list(build_validation_loader(cfg, cfg.DATASETS.TEST[0], limit))
        assert [batch[0]["position"] for batch in batches] == list(expected)
        assert all(len(batch) == 1 and len(batch[0]["instances"]) for batch in batches)


def test_a_set_without_annotations_is_refused(config, monkeypatch):
    cfg = config(**options())
    monkeypatch.setattr("libra_d2.data.validation_loader.evaluation_records", lambda *_: [{"annotations": []}] * 3)
    with pytest.raises(UserError, match="VALIDATION_LOSS: expected annotated images in libra_val, got none"):
        LibraTrainer(cfg)
