"""Learning rate and schedule follow the batch: once, and as the log and config.yaml say."""

import pytest
import yaml

from libra_d2.checks import UserError
from libra_d2.cli import train
from libra_d2.config import get_cfg
from libra_d2.engine import LibraTrainer
from libra_d2.engine.batch_scaling import changes, scaled
from tests.engine.tiny import write_config

SCHEDULE = [
    *["SOLVER.BASE_LR", 0.02, "SOLVER.MAX_ITER", 90000, "SOLVER.STEPS", (60000, 80000), "SOLVER.WARMUP_ITERS", 500],
    *["SOLVER.CHECKPOINT_PERIOD", 5000, "TEST.EVAL_PERIOD", 0],
]


def config_of(*opts):
    cfg = get_cfg()
    cfg.merge_from_list([*SCHEDULE, *opts])
    cfg.freeze()
    return cfg


def schedule(cfg):
    solver = cfg.SOLVER
    return solver.BASE_LR, solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD


FOR_4 = (pytest.approx(0.005), 360000, (240000, 320000), 2000, 20000)


def test_the_schedule_of_16_images_is_scaled_to_4():
    cfg = config_of("SOLVER.IMS_PER_BATCH", 4, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16)
    cfg = scaled(given := cfg, world_size=2)
    assert schedule(cfg) == FOR_4
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.LIBRA.TRAIN.REFERENCE_BATCH, cfg.TEST.EVAL_PERIOD) == (4, 4, 0)
    assert cfg.SOLVER.REFERENCE_WORLD_SIZE == 0
    assert cfg.is_frozen()
    assert scaled(cfg, world_size=2) is cfg, "it is not scaled twice"
    assert changes(given, cfg) == (
        "SOLVER.BASE_LR 0.02 -> 0.005, SOLVER.MAX_ITER 90000 -> 360000, "
        "SOLVER.STEPS (60000, 80000) -> (240000, 320000), SOLVER.WARMUP_ITERS 500 -> 2000, "
        "SOLVER.CHECKPOINT_PERIOD 5000 -> 20000"
    )


def test_the_schedule_of_8_processes_is_scaled_to_2():
    cfg = scaled(config_of("SOLVER.IMS_PER_BATCH", 16, "SOLVER.REFERENCE_WORLD_SIZE", 8), world_size=2)
    assert schedule(cfg) == FOR_4
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE) == (4, 2)
    assert scaled(cfg, world_size=2) is cfg
    assert schedule(scaled(cfg, world_size=8)) == schedule(config_of()), "and back"


def test_both_together_scale_once_by_each():
    both = ["MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16, "SOLVER.REFERENCE_WORLD_SIZE", 8]
    cfg = scaled(config_of("SOLVER.IMS_PER_BATCH", 8, *both), world_size=4)
    assert schedule(cfg) == FOR_4
    assert scaled(cfg, world_size=4) is cfg


def test_what_is_off_or_fits_changes_nothing():
    for cfg in (config_of(), config_of("SOLVER.IMS_PER_BATCH", 16, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16)):
        assert scaled(cfg, world_size=2) is cfg
        assert changes(cfg, cfg) == ""


def test_the_average_is_over_as_many_images():
    opts = ["SOLVER.IMS_PER_BATCH", 4, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16, "MODEL.LIBRA.TRAIN.EMA_DECAY", 0.9]
    assert scaled(config_of(*opts), 1).MODEL.LIBRA.TRAIN.EMA_DECAY ** 4 == pytest.approx(0.9)


def test_a_period_is_not_rounded_to_never():
    periods = ["SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 2]
    cfg = scaled(config_of("SOLVER.IMS_PER_BATCH", 160, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16, *periods), 1)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (1, 1)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["MODEL.LIBRA.TRAIN.REFERENCE_BATCH", -1],
            r"REFERENCE_BATCH: expected 0 \(off\) or a number of im.* got -1",
        ),
        (["SOLVER.REFERENCE_WORLD_SIZE", -1], r"REFERENCE_WORLD_SIZE: expected 0 \(off\) or a number of proc.* got -1"),
        (["SOLVER.REFERENCE_WORLD_SIZE", 5], "SOLVER.IMS_PER_BATCH: expected a multiple of .*_WORLD_SIZE 5, got 16"),
        (["SOLVER.IMS_PER_BATCH", 0, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 16], "expected at least one image, got 0"),
    ],
)
def test_what_cannot_be_scaled_is_refused(opts, message):
    with pytest.raises(UserError, match=message):
        scaled(config_of(*opts), world_size=2)


def test_the_trainer_takes_the_scaled_schedule(config):
    trainer = LibraTrainer(config(opts=["MODEL.LIBRA.TRAIN.REFERENCE_BATCH", 8]))
    assert trainer.max_iter == 24
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.00125}


def test_the_written_config_and_a_resume_have_the_scaled_schedule(data, tmp_path):
    (json_file, images), out = data[0], tmp_path / "out"
    schedule = {"IMS_PER_BATCH": 2, "MAX_ITER": 1, "STEPS": [], "WARMUP_ITERS": 0}
    file = write_config(tmp_path / "tiny.yaml", SOLVER=schedule, OUTPUT_DIR=str(out))
    own_data = ["--train-json", str(json_file), "--train-images", str(images)]
    opts = ["MODEL.LIBRA.TRAIN.REFERENCE_BATCH", "4"]

    def run(*arguments):
        assert train.run(train.argument_parser("train").parse_args(list(arguments))) == 0
        solver = yaml.safe_load((out / "config.yaml").read_text())["SOLVER"]
        return solver["BASE_LR"], solver["MAX_ITER"], (out / "log.txt").read_text().count("Scaled to the batch of this")

    assert run("--config-file", str(file), *own_data, *opts) == (0.0025, 2, 1)
    assert "run: SOLVER.BASE_LR 0.005 -> 0.0025, SOLVER.MAX_ITER 1 -> 2" in (out / "log.txt").read_text()
    assert run("--config-file", str(file), *own_data, "--resume", *opts) == (0.0025, 2, 2), "from the recipe again"
    assert run("--config-file", str(out / "config.yaml"), "--resume") == (0.0025, 2, 2), "from what was scaled already"
