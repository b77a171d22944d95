"""Every key that libra_d2 adds to a Detectron2 config, with its default. Nothing else sets one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libra_d2.checks import require_detectron2

if TYPE_CHECKING:  # importing libra_d2 must not import Detectron2
    from detectron2.config import CfgNode


@dataclass(frozen=True)
class Key:
    """A config key by its dotted name; docs/config.md is generated from these."""

    name: str
    default: object
    meaning: str


GROUPS: dict[str, tuple[Key, ...]] = {
    "Balanced feature pyramid (paper, section 3.2)": (
        Key("MODEL.LIBRA.BFP.ENABLED", True, "Wrap the backbone of `LibraRCNN` or `LibraRetinaNet` in the pyramid."),
        Key(
            "MODEL.LIBRA.BFP.BOTTOM_UP",
            "",
            "What `build_bfp_backbone` wraps: a name in Detectron2's `BACKBONE_REGISTRY`. Any meta-architecture can "
            "use it through `MODEL.BACKBONE.NAME`.",
        ),
        Key("MODEL.LIBRA.BFP.REFINE_LEVEL", "p4", "The level at whose resolution all levels are averaged."),
        Key(
            "MODEL.LIBRA.BFP.REFINE_TYPE",
            "non_local",
            "`non_local` (embedded Gaussian), `conv` (3x3) or `none` (integration only).",
        ),
        Key(
            "MODEL.LIBRA.BFP.INIT",
            "xavier",
            "`xavier` (the published runs), `zero` (the last layer of the refinement starts at 0), `mmdet` (as "
            "MMDetection 3: N(0, 0.01), and the last layer at 0) or `identity` (a gate that starts at 0, for "
            "fine-tuning).",
        ),
        Key(
            "MODEL.LIBRA.BFP.ATTENTION",
            "unscaled",
            "What `non_local` takes the softmax of: products of the embeddings as in the paper (`unscaled`), divided "
            "by the root of their channels (`scaled`), or their cosines times that root (`cosine`).",
        ),
    ),
    "Which proposals the RoI heads train on (paper, section 3.1)": (
        Key(
            "MODEL.LIBRA.SAMPLER.NAME",
            "BalancedSampler",
            "A name in `BOX_SAMPLER_REGISTRY`: `BalancedSampler`, `OHEMSampler` or your own.",
        ),
        Key("MODEL.LIBRA.SAMPLER.POSITIVE", "instance_balanced", "`instance_balanced` or `random`."),
        Key("MODEL.LIBRA.SAMPLER.NEGATIVE", "iou_balanced", "`iou_balanced` or `random`."),
        Key("MODEL.LIBRA.SAMPLER.NUM_BINS", 3, "The number of IoU bins, K in the paper."),
        Key(
            "MODEL.LIBRA.SAMPLER.BIN_UPPER",
            "threshold",
            "Upper end of the bins: `threshold` (the highest IoU labelled negative), `max_all` (as MMDetection) or "
            "`max_neg`.",
        ),
        Key(
            "MODEL.LIBRA.SAMPLER.FLOOR_THR",
            -1.0,
            "Negatives below this IoU are drawn separately and get `FLOOR_FRACTION` of the draws; -1: no such split.",
        ),
        Key("MODEL.LIBRA.SAMPLER.FLOOR_FRACTION", 0.0, "The share of negatives that comes from below `FLOOR_THR`."),
    ),
    "RPN": (
        Key("MODEL.LIBRA.RPN.POSITIVE", "random", "`random` or `instance_balanced`."),
        Key("MODEL.LIBRA.RPN.NEGATIVE", "random", "`random` or `iou_balanced`."),
        Key("MODEL.LIBRA.RPN.NEG_POS_UB", 5.0, "At most this many negatives for each positive; negative: no limit."),
        Key(
            "MODEL.LIBRA.RPN.NORMALIZER",
            "sampled",
            "Divide the losses by the anchors `sampled` on this rank, or by Detectron2's constant (`fixed`).",
        ),
    ),
    "Balanced L1 loss (paper, section 3.3), where `BBOX_REG_LOSS_TYPE` is `balanced_l1`": (
        Key("MODEL.LIBRA.BALANCED_L1.ALPHA", 0.5, "Smaller values give small errors a larger gradient, closer to L1."),
        Key("MODEL.LIBRA.BALANCED_L1.GAMMA", 1.5, "The largest gradient."),
        Key("MODEL.LIBRA.BALANCED_L1.BETA", 1.0, "The error at which the gradient reaches `GAMMA`."),
        Key(
            "MODEL.LIBRA.BALANCED_L1.VARIANT", "paper", "`paper` (smooth for every `BETA`) or `mmdet` (as MMDetection)."
        ),
    ),
    "Classification loss of the RoI heads": (
        Key(
            "MODEL.LIBRA.CLASS_LOSS.NAME",
            "cross_entropy",
            "A name in `CLASS_LOSS_REGISTRY`: `cross_entropy`, `focal`, `seesaw` or your own.",
        ),
        Key(
            "MODEL.LIBRA.CLASS_LOSS.WEIGHTS",
            [],
            "What a box of each class weighs, in the order of the classes, with or without a last one for the "
            "background; empty: all 1.",
        ),
        Key("MODEL.LIBRA.CLASS_LOSS.FOCAL_GAMMA", 2.0, "`focal`: the larger, the less easy boxes weigh."),
        Key("MODEL.LIBRA.CLASS_LOSS.SEESAW_P", 0.8, "`seesaw`: the larger, the less rare classes are pushed down."),
        Key("MODEL.LIBRA.CLASS_LOSS.SEESAW_Q", 2.0, "`seesaw`: the larger, the more mistakes are punished."),
    ),
    "Prime samples (PISA: Cao et al., CVPR 2020)": (
        Key(
            "MODEL.LIBRA.PISA.ENABLED",
            False,
            "Weight the classification loss of positives by the rank of their predicted box within object and class.",
        ),
        Key("MODEL.LIBRA.PISA.GAMMA", 2.0, "Exponent of the weights."),
        Key("MODEL.LIBRA.PISA.BETA", 0.0, "The base of the smallest weight, from 0 to 1."),
    ),
    "LibraRetinaNet": (
        Key("MODEL.LIBRA.RETINANET.RELU_BEFORE_P7", True, "ReLU between p6 and p7. MMDetection: `False`."),
        Key(
            "MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS",
            False,
            "Clip boxes to the image and drop empty ones before NMS. MMDetection: `True`.",
        ),
    ),
    "`build_torchvision_fpn_backbone`": (
        Key("MODEL.LIBRA.TORCHVISION.NAME", "mobilenet_v2", "A convolutional classifier of torchvision."),
        Key(
            "MODEL.LIBRA.TORCHVISION.WEIGHTS",
            "",
            "Its weights: a file, a URL or a name of torchvision's weights enum; empty: random.",
        ),
    ),
    "Your own data as COCO json; `libra-d2 train --train-json ...` fills these in": (
        Key("MODEL.LIBRA.DATA.TRAIN_JSON", "", "Annotations to train on."),
        Key("MODEL.LIBRA.DATA.TRAIN_IMAGES", "", "Folder of the training images."),
        Key("MODEL.LIBRA.DATA.VAL_JSON", "", "Annotations to evaluate on."),
        Key("MODEL.LIBRA.DATA.VAL_IMAGES", "", "Folder of the images to evaluate on."),
        Key(
            "MODEL.LIBRA.DATA.CLASS_NAMES",
            [],
            "Names of the classes; empty: those that the weights carry, or those of the json, ordered by id.",
        ),
    ),
    "Training": (
        Key("SOLVER.OPTIMIZER", "SGD", "`SGD` (as Detectron2) or `AdamW`."),
        Key("INPUT.COLOR_AUG", 0.0, "0.2: brightness, contrast and saturation are each drawn from 0.8 to 1.2."),
        Key(
            "MODEL.LIBRA.TRAIN.REFERENCE_BATCH",
            0,
            "The `SOLVER.IMS_PER_BATCH` that learning rate and schedule are written for, e.g. 16: they are scaled to "
            "the one of the run; 0: taken as they are.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.COMPILE",
            [],
            "Parts of the model that `torch.compile` compiles while it trains: `bfp` (the sums at the balanced "
            "pyramid's finer levels) and `box_head`.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.DUMP_DIVERGED",
            False,
            "Keep the step at which training diverges in `OUTPUT_DIR/diverged_rank0.pth`, for "
            "`libra_d2.engine.step_dump.replay_step`; copies the weights in each step.",
        ),
        Key("INPUT.VERTICAL_FLIP", False, "Flip vertically with probability 0.5, besides what `RANDOM_FLIP` does."),
    ),
    "Large images in tiles, in evaluation and prediction; `--tile` and `--overlap` fill these in": (
        Key("MODEL.LIBRA.TILES.SIZE", 0, "Side of a tile in pixels of the image; 0: whole images."),
        Key("MODEL.LIBRA.TILES.OVERLAP", 0.2, "What a tile shares with the next, as a part of its side."),
    ),
    "On a CPU": (
        Key(
            "MODEL.LIBRA.KEEP_FREED_MEMORY",
            True,
            "Where `MODEL.DEVICE` is `cpu`, `train`, `eval` and `predict` keep the memory that torch frees, instead of "
            "giving it to the kernel and getting it back (Linux with glibc): faster, but training may hold up to 1.4 "
            "times as much.",
        ),
    ),
    "LazyConfig: `--config-file FILE.py` fills these in": (
        Key(
            "MODEL.LIBRA.LAZY.FILE",
            "",
            "Detectron2's Python config whose `model` is built by the meta-architecture `LazyModel`.",
        ),
        Key("MODEL.LIBRA.LAZY.OVERRIDES", [], "What `model.a.b VALUE` on the command line changed in it."),
    ),
    "While it trains": (
        Key(
            "MODEL.LIBRA.TRAIN.BEST_METRIC",
            "",
            "Keep the weights with the highest value of this metric in `OUTPUT_DIR/model_best.pth`, e.g. `bbox/AP`, "
            "`segm/AP50`, `bbox/AP-tree` (of a class) or `bbox_EMA/AP` (the averaged weights), or with the lowest "
            "`validation_loss/total_loss`; empty: keep none. Needs `TEST.EVAL_PERIOD`.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.PATIENCE",
            0,
            "End the run after this many evaluations in a row without a better `BEST_METRIC`; 0: run to "
            "`SOLVER.MAX_ITER`.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.VALIDATION_LOSS",
            0,
            "In each evaluation compute the losses, too, as `validation_loss/total_loss` and so on, on this many "
            "images of `DATASETS.TEST`, evenly spread over it; -1: on all; 0: no such losses.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.EMA_DECAY",
            0.0,
            "Average the weights over about 1 / (1 - `EMA_DECAY`) steps, e.g. 0.999; evaluated as `bbox_EMA` and saved "
            "in `OUTPUT_DIR/model_final_ema.pth`, beside the weights themselves; 0: no average.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.WRITERS",
            [],
            "Where metrics go besides the terminal, metrics.json and TensorBoard: `wandb` (Weights & Biases) and "
            "`mlflow`, each to be installed with pip.",
        ),
        Key(
            "MODEL.LIBRA.TRAIN.AMP_DTYPE",
            "float16",
            "What `SOLVER.AMP.ENABLED` computes in: `float16` (as Detectron2; needs CUDA) or `bfloat16`.",
        ),
    ),
}


def add_libra_config(cfg: CfgNode) -> None:
    """Registers the modules of libra_d2 and adds its keys to ``cfg``.

    A ``cfg`` that has ``MODEL.LIBRA`` already, frozen or not, is left untouched.

    Args:
        cfg: a config made by :func:`detectron2.config.get_cfg`.
    """
    require_detectron2()
    from detectron2.config import CfgNode

    import libra_d2.config.lazy  # noqa: F401  (both fill Detectron2's registries)
    import libra_d2.modeling  # noqa: F401

    if "LIBRA" in cfg.MODEL:
        return
    for key in (key for group in GROUPS.values() for key in group):
        *sections, name = key.name.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        # Outside MODEL.LIBRA another project may have put a key of this name: its default stays.
        node.setdefault(name, copy.copy(key.default))


def get_cfg() -> CfgNode:
    """Detectron2's default config with the keys of libra_d2, on the CPU where no CUDA device is visible.

    Raises:
        MissingDetectron2: it is not installed.
    """
    require_detectron2()
    import torch
    from detectron2.config import get_cfg as get_detectron2_cfg

    cfg = get_detectron2_cfg()
    add_libra_config(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg
