"""Every key that libra_d2 adds to a Detectron2 config, with its default. Nothing else sets one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing libra_d2 must not import Detectron2
    from detectron2.config import CfgNode


def add_libra_config(cfg: CfgNode) -> None:
    """Registers the modules of libra_d2 and adds its keys to ``cfg``.

    A ``cfg`` that has ``MODEL.LIBRA`` already, frozen or not, is left untouched.

    Args:
        cfg: a config made by :func:`detectron2.config.get_cfg`.
    """
    from detectron2.config import CfgNode as CN

    import libra_d2.modeling  # noqa: F401  (fills Detectron2's registries)

    if "LIBRA" in cfg.MODEL:
        return

    cfg.MODEL.LIBRA = CN()

    # Balanced feature pyramid (paper section 3.2)
    bfp = cfg.MODEL.LIBRA.BFP = CN()
    bfp.ENABLED = True
    # What build_bfp_backbone wraps: a name in Detectron2's BACKBONE_REGISTRY
    bfp.BOTTOM_UP = ""
    # The level at whose resolution all levels are averaged
    bfp.REFINE_LEVEL = "p4"
    # "non_local" (embedded Gaussian), "conv" (3x3) or "none" (integration only)
    bfp.REFINE_TYPE = "non_local"
    # "xavier" (published runs), "zero" (last layer of the refine) or "identity" (a gate that starts at 0: fine-tuning)
    bfp.INIT = "xavier"

    # Which proposals the RoI heads train on (paper section 3.1)
    sampler = cfg.MODEL.LIBRA.SAMPLER = CN()
    # A name in BOX_SAMPLER_REGISTRY
    sampler.NAME = "BalancedSampler"
    # "instance_balanced" or "random"
    sampler.POSITIVE = "instance_balanced"
    # "iou_balanced" or "random"
    sampler.NEGATIVE = "iou_balanced"
    # K of the paper
    sampler.NUM_BINS = 3
    # Upper end of the bins: "threshold" (the highest IoU labelled negative), "max_all" (MMDetection) or "max_neg"
    sampler.BIN_UPPER = "threshold"
    # Negatives below it form a set of their own that gets FLOOR_FRACTION of the draws; -1: there is no such set
    sampler.FLOOR_THR = -1.0
    sampler.FLOOR_FRACTION = 0.0

    rpn = cfg.MODEL.LIBRA.RPN = CN()
    # "random" or "instance_balanced"
    rpn.POSITIVE = "random"
    # "random" or "iou_balanced"
    rpn.NEGATIVE = "random"
    # At most so many negatives for each positive; negative: no limit
    rpn.NEG_POS_UB = 5.0
    # Divide the losses by the anchors "sampled" on this rank, or by Detectron2's constant ("fixed")
    rpn.NORMALIZER = "sampled"

    # Balanced L1 loss (paper section 3.3), used where BBOX_REG_LOSS_TYPE is "balanced_l1"
    balanced_l1 = cfg.MODEL.LIBRA.BALANCED_L1 = CN()
    balanced_l1.ALPHA = 0.5
    balanced_l1.GAMMA = 1.5
    balanced_l1.BETA = 1.0
    # "paper" (smooth for every beta) or "mmdet" (what MMDetection computes)
    balanced_l1.VARIANT = "paper"

    retinanet = cfg.MODEL.LIBRA.RETINANET = CN()
    # MMDetection: False
    retinanet.RELU_BEFORE_P7 = True
    # Clip boxes to the image and drop empty ones before NMS. MMDetection: True
    retinanet.CLIP_BEFORE_NMS = False

    # build_torchvision_fpn_backbone: a torchvision model by name, its weights by file, URL or torchvision's enum name
    torchvision = cfg.MODEL.LIBRA.TORCHVISION = CN()
    torchvision.NAME = "mobilenet_v2"
    torchvision.WEIGHTS = ""

    # One's own COCO json files; train_net.py writes them from its command line
    data = cfg.MODEL.LIBRA.DATA = CN()
    data.TRAIN_JSON = ""
    data.TRAIN_IMAGES = ""
    data.VAL_JSON = ""
    data.VAL_IMAGES = ""
    data.CLASS_NAMES = []

    # Outside MODEL.LIBRA another project may have put keys of these names: its defaults stay.
    # "SGD" (Detectron2's) or "AdamW"
    cfg.SOLVER.setdefault("OPTIMIZER", "SGD")
    # 0.2: brightness, contrast and saturation are each drawn from 0.8 to 1.2
    cfg.INPUT.setdefault("COLOR_AUG", 0.0)
    # Flip vertically with probability 0.5, besides what RANDOM_FLIP does
    cfg.INPUT.setdefault("VERTICAL_FLIP", False)


def get_cfg() -> CfgNode:
    """Detectron2's default config with the keys of libra_d2, on the CPU where no CUDA device is visible."""
    import torch
    from detectron2.config import get_cfg as get_detectron2_cfg

    cfg = get_detectron2_cfg()
    add_libra_config(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg
