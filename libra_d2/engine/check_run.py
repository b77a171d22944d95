"""What of Detectron2's config cannot be run here is said before a run starts; docs/detectron2_keys.md lists it all."""

import difflib
import importlib.util
import itertools
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from libra_d2.checks import FileError, UserError, choice, number
from libra_d2.config.files import did_you_mean
from libra_d2.engine.compile import check_compile
from libra_d2.engine.run_writers import check_run_writers
from libra_d2.evaluation.metrics import metric_names
from libra_d2.inference.predictor import check_augmented_test
from libra_d2.inference.tiles import check_tiles

_CHANNELS = {"L": 1, "RGB": 3, "BGR": 3, "YUV-BT.601": 3}


def check_run(cfg: CfgNode, world_size: int, *, train: bool) -> None:
    """Refuses what would fail, or silently do nothing, in the course of training or evaluation.

    Args:
        cfg: scaled to the batch of the run, see ``batch_scaling.py``.
        world_size: the number of processes, on all machines together.
        train: False where the run evaluates alone.

    Raises:
        UserError: names the key, its value and what would work.
    """
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError("MODEL.KEYPOINT_ON: expected False, got True: keypoints are not supported")
    channels = _CHANNELS[choice(cfg, "INPUT.FORMAT", _CHANNELS)]
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        what = f"{channels} numbers, as INPUT.FORMAT is {cfg.INPUT.FORMAT!r}"
        number(cfg, key, what, lambda values: len(values) == channels)
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and importlib.util.find_spec("detectron2._C") is None:
        raise UserError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: expected [False, False, False, False], because this Detectron2 comes "
            f"without its compiled part, got {cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE}"
        )
    for name in (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST):
        _check_dataset(name)
    check_augmented_test(cfg)
    check_tiles(cfg)
    if train:
        _check_training(cfg, world_size)


def _check_dataset(name: str) -> None:
    if name not in DatasetCatalog:
        raise UserError(f"DATASETS: expected names of registered data sets, got {name!r}; your own go by --train-json")
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file and not PathManager.exists(json_file):
        raise FileError(
            f"DATASETS: {name} expects its annotations in {json_file}, which is not there: the environment variable "
            "DETECTRON2_DATASETS names the folder of Detectron2's data sets, --train-json your own"
        )


def _check_training(cfg: CfgNode, world_size: int) -> None:
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: expected data to train on, got none: add --train-json and --train-images")
    number(cfg, "SOLVER.CHECKPOINT_PERIOD", "at least 1", lambda x: x >= 1)
    number(cfg, "TEST.EVAL_PERIOD", "0 (at the end alone) or more", lambda x: x >= 0)
    # WarmupStepWithFixedGammaLR fails in the last iteration, before the final checkpoint (fvcore's index runs over).
    choice(cfg, "SOLVER.LR_SCHEDULER_NAME", ("WarmupMultiStepLR", "WarmupCosineLR"))
    last = cfg.SOLVER.MAX_ITER  # Detectron2 leaves out steps beyond it, and fails at one that equals it
    number(
        cfg, "SOLVER.STEPS", f"ascending, none of them SOLVER.MAX_ITER {last}", lambda s: _ascends(s) and last not in s
    )
    choice(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", ("value", "norm"))
    what = f"a multiple of the {world_size} processes"
    number(cfg, "SOLVER.IMS_PER_BATCH", what, lambda x: x >= world_size and x % world_size == 0)
    _check_train_keys(cfg)


def _check_train_keys(cfg: CfgNode) -> None:
    train = cfg.MODEL.LIBRA.TRAIN
    check_run_writers(cfg)
    check_compile(cfg)
    number(cfg, "MODEL.LIBRA.TRAIN.EMA_DECAY", "0 (off) or more, below 1", lambda x: 0 <= x < 1)
    dtype = choice(cfg, "MODEL.LIBRA.TRAIN.AMP_DTYPE", ("float16", "bfloat16"))
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu" and dtype != "bfloat16":
        raise UserError(
            "SOLVER.AMP.ENABLED: expected False with MODEL.DEVICE cpu, or MODEL.LIBRA.TRAIN.AMP_DTYPE bfloat16, got "
            f"True with {dtype}, which needs CUDA"
        )
    number(cfg, "MODEL.LIBRA.TRAIN.VALIDATION_LOSS", "0 (off), -1 (all) or a number of images", lambda x: x >= -1)
    if train.VALIDATION_LOSS and not cfg.DATASETS.TEST:
        raise UserError(
            f"MODEL.LIBRA.TRAIN.VALIDATION_LOSS: expected 0 without data to evaluate on, got {train.VALIDATION_LOSS}: "
            "add --val-json and --val-images"
        )
    number(cfg, "MODEL.LIBRA.TRAIN.PATIENCE", "0 (off) or a number of evaluations", lambda x: x >= 0)
    if not train.BEST_METRIC:
        needs = "MODEL.LIBRA.TRAIN.BEST_METRIC, e.g. bbox/AP"
        number(cfg, "MODEL.LIBRA.TRAIN.PATIENCE", f"0 without {needs}", lambda x: x == 0)
        return
    if not cfg.TEST.EVAL_PERIOD or not cfg.DATASETS.TEST:
        raise UserError(
            f"MODEL.LIBRA.TRAIN.BEST_METRIC: expected evaluations on the way to choose by, got {train.BEST_METRIC!r} "
            f"with TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD} and DATASETS.TEST {list(cfg.DATASETS.TEST)}: add "
            "TEST.EVAL_PERIOD N and --val-json, or leave the key empty"
        )
    known = metric_names(cfg)
    if train.BEST_METRIC not in known:
        near = did_you_mean(difflib.get_close_matches(train.BEST_METRIC, known, cutoff=0.4))
        raise UserError(
            f"MODEL.LIBRA.TRAIN.BEST_METRIC: expected a metric of this run's evaluations, such as {known[0]}, got "
            f"{train.BEST_METRIC!r}{near}"
        )


def _ascends(steps: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(steps))
