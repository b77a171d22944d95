"""What the weights do not tell: the settings under which MMDetection computes what a Detectron2 config computes."""

from libra_d2.checks import value_of
from libra_d2.mmdet.names import Architecture, CheckpointError

__all__ = ["mmdet_options", "refuse_other_boxes"]

# What decides detections without showing in the shape of a tensor, and has no option below
_SAME = (
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.FPN.FUSE_TYPE",
)
_SAME_OF = {
    "faster_rcnn": (
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    ),
    "retinanet": ("MODEL.RETINANET.BBOX_REG_WEIGHTS",),
}


def refuse_other_boxes(cfg, compat, architecture: Architecture) -> None:
    """Refuses a config under which MMDetection would decode or pool other boxes than the model was trained with.

    Args:
        cfg: the config the model was trained with.
        compat: the one in configs/mmdet_compat/ for its architecture.

    Raises:
        CheckpointError: they disagree in a key for which :func:`mmdet_options` has no option.
    """
    differing = []
    for key in (*_SAME, *_SAME_OF[architecture.meta]):
        here, there = value_of(cfg, key), value_of(compat, key)
        if here != there:
            differing.append(f"{key} is {here}, theirs {there}")
    if differing:
        raise CheckpointError(
            "expected a config whose boxes are those of MMDetection's, got one in which "
            f"{'; '.join(differing)}. Give --config-file a copy without these, and set them in their config by hand"
        )


def mmdet_options(cfg, architecture: Architecture) -> list[str]:
    """Settings for ``--cfg-options`` of MMDetection's and MMDeploy's tools, on top of ``architecture.mmdet_config``.

    They concern detection, not training. Two things have no setting there: MMDetection clips RetinaNet's boxes
    before NMS (``MODEL.LIBRA.RETINANET.CLIP_BEFORE_NMS True`` here), and reads images with OpenCV.
    """
    two_stage = architecture.meta == "faster_rcnn"
    head = "model.roi_head.bbox_head" if two_stage else "model.bbox_head"
    first = 2 if two_stage else 3
    ours = cfg.MODEL.ROI_HEADS if two_stage else cfg.MODEL.RETINANET
    test = "model.test_cfg.rcnn" if two_stage else "model.test_cfg"
    options = {
        "model.data_preprocessor.mean": cfg.MODEL.PIXEL_MEAN,
        "model.data_preprocessor.std": cfg.MODEL.PIXEL_STD,
        "model.data_preprocessor.bgr_to_rgb": cfg.INPUT.FORMAT == "RGB",
        "model.backbone.style": "caffe" if cfg.MODEL.RESNETS.STRIDE_IN_1X1 else "pytorch",
        "model.neck.1.refine_level": int(cfg.MODEL.LIBRA.BFP.REFINE_LEVEL.removeprefix("p")) - first,
        "model.neck.1.refine_type": None if architecture.refine == "none" else architecture.refine,
        f"{head}.num_classes": architecture.num_classes,
        f"{test}.score_thr": ours.SCORE_THRESH_TEST,
        f"{test}.nms.iou_threshold": ours.NMS_THRESH_TEST,
        f"{test}.max_per_img": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
    if two_stage:
        options["model.test_cfg.rpn.nms_pre"] = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST
        options["model.test_cfg.rpn.max_per_img"] = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        options["model.test_cfg.rpn.nms.iou_threshold"] = cfg.MODEL.RPN.NMS_THRESH
    else:
        options["model.test_cfg.nms_pre"] = cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST
        options["model.neck.0.relu_before_extra_convs"] = cfg.MODEL.LIBRA.RETINANET.RELU_BEFORE_P7
    return [f"{name}={str(value).replace(' ', '')}" for name, value in options.items()]
