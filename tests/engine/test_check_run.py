"""What Detectron2's config can say and cannot be done is said before a run starts."""

import pytest
from detectron2.data import DatasetCatalog

from libra_d2.checks import UserError
from libra_d2.engine.check_run import check_run
from tests.modeling.builders import small_cfg


@pytest.fixture
def data():
    DatasetCatalog.register("some_data", list)
    yield ["DATASETS.TRAIN", "('some_data',)", "DATASETS.TEST", "('some_data',)", "MODEL.DEVICE", "cpu"]
    DatasetCatalog.remove("some_data")


WRONG = {
    "keypoints": (["MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON: expected False"),
    "grey images, means of three": (["INPUT.FORMAT", "L"], "MODEL.PIXEL_MEAN: expected 1 numbers"),
    "a format that nobody has": (["INPUT.FORMAT", "HSV"], r"INPUT.FORMAT: expected one of \['L', 'RGB'"),
    "no checkpoint": (["SOLVER.CHECKPOINT_PERIOD", 0], "SOLVER.CHECKPOINT_PERIOD: expected at least 1, got 0"),
    "evaluation before the start": (["TEST.EVAL_PERIOD", -1], "TEST.EVAL_PERIOD: expected 0"),
    "schedule": (["SOLVER.LR_SCHEDULER_NAME", "Cosine"], "SOLVER.LR_SCHEDULER_NAME: expected one of"),
    "a schedule that fails at the end": (
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"],
        r"expected one of \['WarmupMultiStepLR', 'WarmupCosineLR'\]",
    ),
    "a step at the end": (
        ["SOLVER.MAX_ITER", 60, "SOLVER.STEPS", (40, 60)],
        r"SOLVER.STEPS: expected ascending, none of them SOLVER.MAX_ITER 60, got \(40, 60\)",
    ),
    "steps out of order": (["SOLVER.STEPS", (60, 40)], "SOLVER.STEPS: expected ascending"),
    "clipping": (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full"], "CLIP_TYPE: expected one of"),
    "batch": (["SOLVER.IMS_PER_BATCH", 3], "SOLVER.IMS_PER_BATCH: expected a multiple of the 2 processes, got 3"),
    "mixed precision": (
        ["SOLVER.AMP.ENABLED", True],
        "SOLVER.AMP.ENABLED: expected False with MODEL.DEVICE cpu, or MODEL.LIBRA.TRAIN.AMP_DTYPE bfloat16, got True",
    ),
    "another precision": (
        ["MODEL.LIBRA.TRAIN.AMP_DTYPE", "bf16"],
        r"AMP_DTYPE: expected one of \['float16', 'bfloat16'\]",
    ),
    "an average of nothing": (["MODEL.LIBRA.TRAIN.EMA_DECAY", 1.0], "EMA_DECAY: expected 0 .* below 1, got 1.0"),
    "patience without a metric": (
        ["MODEL.LIBRA.TRAIN.PATIENCE", 3],
        "PATIENCE: expected 0 without MODEL.LIBRA.TRAIN.BEST",
    ),
    "the best of no evaluation": (
        ["MODEL.LIBRA.TRAIN.BEST_METRIC", "bbox/AP"],
        "BEST_METRIC: expected evaluations on the way .* TEST.EVAL_PERIOD 0",
    ),
    "an unknown metric": (
        ["MODEL.LIBRA.TRAIN.BEST_METRIC", "bbox/ap50", "TEST.EVAL_PERIOD", 10],
        "BEST_METRIC: expected a metric .* such as bbox/AP, got 'bbox/ap50'; did you mean .*bbox/AP50",
    ),
    "losses on half an image": (
        ["MODEL.LIBRA.TRAIN.VALIDATION_LOSS", -2],
        r"VALIDATION_LOSS: expected 0 \(off\), -1 \(all\) or a number of images, got -2",
    ),
    "losses on no data": (
        ["MODEL.LIBRA.TRAIN.VALIDATION_LOSS", 5, "DATASETS.TEST", ()],
        "VALIDATION_LOSS: expected 0 without data to evaluate on, got 5: add --val-json",
    ),
    "the least loss where none is computed": (
        ["MODEL.LIBRA.TRAIN.BEST_METRIC", "validation_loss/total_loss", "TEST.EVAL_PERIOD", 10],
        "BEST_METRIC: expected a metric .* got 'validation_loss/total_loss'",
    ),
    "an unknown part to compile": (
        ["MODEL.LIBRA.TRAIN.COMPILE", ["backbone"]],
        r"COMPILE: expected names out of \['bfp', 'box_head'\], got 'backbone'",
    ),
    "the average where there is none": (
        ["MODEL.LIBRA.TRAIN.BEST_METRIC", "bbox_EMA/AP", "TEST.EVAL_PERIOD", 10],
        "BEST_METRIC: expected a metric .* got 'bbox_EMA/AP'; did you mean bbox/AP",
    ),
    "no data": (["DATASETS.TRAIN", ()], "DATASETS.TRAIN: expected data to train on, got none"),
    "unknown data": (["DATASETS.TEST", ("nowhere",)], "got 'nowhere'; your own go by --train-json"),
    "COCO that is not there": (["DATASETS.TRAIN", ("coco_2017_train",)], "DETECTRON2_DATASETS names the folder"),
    "augmented RetinaNet": (
        ["TEST.AUG.ENABLED", True, "MODEL.META_ARCHITECTURE", "LibraRetinaNet"],
        "TEST.AUG.ENABLED: expected False: .* got True with LibraRetinaNet",
    ),
    "tiles that are all overlap": (["MODEL.LIBRA.TILES.OVERLAP", 1.0], "TILES.OVERLAP: expected a part of a tile"),
}


@pytest.mark.parametrize(("opts", "message"), WRONG.values(), ids=WRONG)
def test_it_is_refused_by_its_key(opts, message, data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        check_run(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *data, *opts), 2, train=True)


def test_what_cannot_be_compiled_is_refused(data, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    cfg = small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *data, "MODEL.LIBRA.TRAIN.COMPILE", ["bfp"])
    with pytest.raises(UserError, match=r"COMPILE: expected a C\+\+ compiler, which torch.compile needs here"):
        check_run(cfg, 2, train=True)


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[0.0]", "MODEL.PIXEL_STD", "[1.0]"],
        ["TEST.AUG.ENABLED", True],
        ["MODEL.LIBRA.TRAIN.COMPILE", ["bfp", "box_head"]],
        [
            *["MODEL.LIBRA.TRAIN.VALIDATION_LOSS", 5, "TEST.EVAL_PERIOD", 10],
            *["MODEL.LIBRA.TRAIN.BEST_METRIC", "validation_loss/total_loss"],
        ],
        ["SOLVER.AMP.ENABLED", True, "MODEL.LIBRA.TRAIN.AMP_DTYPE", "bfloat16"],
    ],
)
def test_the_rest_is_left_to_detectron2(opts, data):
    check_run(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *data, *opts), 2, train=True)


def test_evaluation_does_not_ask_for_what_training_needs(data):
    opts = ["DATASETS.TRAIN", (), "SOLVER.IMS_PER_BATCH", 3, "SOLVER.CHECKPOINT_PERIOD", 0]
    check_run(small_cfg("libra_faster_rcnn_R_50_FPN_1x.yaml", *data, *opts), 2, train=False)
