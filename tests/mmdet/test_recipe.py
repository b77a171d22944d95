"""configs/mmdet_compat/ says what MMDetection's own configs say; the expected values are read from those."""

import pytest
from detectron2.config import CfgNode

import libra_d2
from tests.mmdet.converted import CONFIGS

IMAGES = 117266  # of train2017 that have an object of at least 32 px, which both frameworks keep


def recipes(mmdet, name):
    """(our config, their config)"""
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"libra_{name}_R_50_FPN_1x.yaml"))
    return cfg, CfgNode(mmdet("facts")["recipes"][name])


@pytest.fixture(params=["faster_rcnn", "retinanet"])
def both(request, mmdet):
    return recipes(mmdet, request.param)


def test_input(both):
    cfg, their = both
    prepare, resize = their.model.data_preprocessor, their.train_dataloader.dataset.pipeline[2]
    assert cfg.INPUT.FORMAT == ("RGB" if prepare.bgr_to_rgb else "BGR")
    assert cfg.MODEL.PIXEL_MEAN == prepare.mean
    assert cfg.MODEL.PIXEL_STD == prepare.std
    assert [cfg.INPUT.MAX_SIZE_TRAIN, *cfg.INPUT.MIN_SIZE_TRAIN] == resize["scale"]
    assert [cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST] == resize["scale"]


def test_backbone_and_pyramid(both):
    cfg, their = both
    assert their.model.backbone.style == "pytorch"
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert their.model.backbone.depth == cfg.MODEL.RESNETS.DEPTH
    assert cfg.MODEL.BACKBONE.FREEZE_AT == their.model.backbone.frozen_stages + 1
    fpn, bfp = their.model.neck
    first = 2 + fpn.get("start_level", 0)
    assert cfg.MODEL.FPN.IN_FEATURES == [f"res{level}" for level in range(first, 6)]
    assert cfg.MODEL.LIBRA.BFP.REFINE_LEVEL == f"p{first + bfp['refine_level']}"
    assert cfg.MODEL.LIBRA.BFP.REFINE_TYPE == bfp["refine_type"]


def test_box_loss(both):
    cfg, their = both
    is_retinanet = their.model.type == "RetinaNet"
    head = their.model.bbox_head if is_retinanet else their.model.roi_head.bbox_head
    ours = cfg.MODEL.RETINANET if is_retinanet else cfg.MODEL.ROI_BOX_HEAD
    assert (ours.BBOX_REG_LOSS_TYPE, head.loss_bbox.type) == ("balanced_l1", "BalancedL1Loss")
    options = cfg.MODEL.LIBRA.BALANCED_L1
    for name in ("alpha", "gamma", "beta"):
        assert options[name.upper()] == head.loss_bbox[name]
    assert head.loss_bbox.loss_weight == 1
    assert options.VARIANT == "mmdet" or options.BETA == 1
    assert [round(1 / weight, 6) for weight in ours.BBOX_REG_WEIGHTS] == head.bbox_coder.target_stds
    assert ours.get("NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES) == head.num_classes


def test_schedule(both):
    cfg, their = both
    warmup, steps = their.param_scheduler
    epoch = -(-IMAGES // cfg.SOLVER.IMS_PER_BATCH)
    assert cfg.SOLVER.IMS_PER_BATCH == 8 * their.train_dataloader.batch_size
    assert cfg.SOLVER.MAX_ITER == their.train_cfg.max_epochs * epoch
    assert list(cfg.SOLVER.STEPS) == [milestone * epoch for milestone in steps["milestones"]]
    assert cfg.SOLVER.GAMMA == steps["gamma"]
    assert cfg.SOLVER.WARMUP_ITERS == warmup["end"]
    assert cfg.SOLVER.WARMUP_FACTOR == warmup["start_factor"]
    optimizer = their.optim_wrapper.optimizer
    assert cfg.SOLVER.BASE_LR == optimizer.lr
    assert cfg.SOLVER.MOMENTUM == optimizer.momentum
    assert cfg.SOLVER.WEIGHT_DECAY == optimizer.weight_decay


def test_two_stage_training_and_testing(mmdet):
    cfg, their = recipes(mmdet, "faster_rcnn")
    rpn, heads, libra = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.LIBRA
    train, test = their.model.train_cfg, their.model.test_cfg

    sampler, assigner = train.rpn.sampler, train.rpn.assigner
    assert [rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION] == [sampler.num, sampler.pos_fraction]
    assert (libra.RPN.POSITIVE, libra.RPN.NEGATIVE, sampler.type) == ("random", "random", "RandomSampler")
    assert sampler.neg_pos_ub == libra.RPN.NEG_POS_UB
    assert libra.RPN.NORMALIZER == "sampled"
    assert rpn.IOU_THRESHOLDS == [assigner.neg_iou_thr, assigner.pos_iou_thr]
    assert train.rpn.allowed_border == rpn.BOUNDARY_THRESH
    assert (their.model.rpn_head.loss_bbox.type, rpn.BBOX_REG_LOSS_TYPE, rpn.SMOOTH_L1_BETA) == (
        "L1Loss",
        "smooth_l1",
        0,
    )
    for ours, proposals in (("TRAIN", train.rpn_proposal), ("TEST", test.rpn)):
        assert rpn[f"PRE_NMS_TOPK_{ours}"] == proposals.nms_pre
        assert rpn[f"POST_NMS_TOPK_{ours}"] == proposals.max_per_img
        assert proposals.nms.iou_threshold == rpn.NMS_THRESH

    sampler, negatives = train.rcnn.sampler, train.rcnn.sampler.neg_sampler
    assert [heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION] == [sampler.num, sampler.pos_fraction]
    assert heads.PROPOSAL_APPEND_GT == sampler.add_gt_as_proposals
    assert heads.IOU_THRESHOLDS == [train.rcnn.assigner.pos_iou_thr] == [train.rcnn.assigner.neg_iou_thr]
    assert (libra.SAMPLER.POSITIVE, sampler.pos_sampler.type) == ("instance_balanced", "InstanceBalancedPosSampler")
    assert (libra.SAMPLER.NEGATIVE, negatives.type) == ("iou_balanced", "IoUBalancedNegSampler")
    assert (libra.SAMPLER.NUM_BINS, libra.SAMPLER.FLOOR_FRACTION) == (negatives.num_bins, negatives.floor_fraction)
    # what -1 becomes on the first call, and where their bins end: see test_differences.py
    assert (negatives.floor_thr, libra.SAMPLER.FLOOR_THR, libra.SAMPLER.BIN_UPPER) == (-1, 0, "max_all")

    assert test.rcnn.score_thr == heads.SCORE_THRESH_TEST
    assert test.rcnn.nms.iou_threshold == heads.NMS_THRESH_TEST
    assert test.rcnn.max_per_img == cfg.TEST.DETECTIONS_PER_IMAGE
    pooler = their.model.roi_head.bbox_roi_extractor.roi_layer
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlignV2"
    assert pooler.sampling_ratio == cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
    assert pooler.output_size == cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION


def test_one_stage_training_and_testing(mmdet):
    cfg, their = recipes(mmdet, "retinanet")
    ours, assigner, test = cfg.MODEL.RETINANET, their.model.train_cfg.assigner, their.model.test_cfg
    assert ours.IOU_THRESHOLDS == [assigner.neg_iou_thr, assigner.pos_iou_thr]
    focal = their.model.bbox_head.loss_cls
    assert [ours.FOCAL_LOSS_GAMMA, ours.FOCAL_LOSS_ALPHA] == [focal.gamma, focal.alpha]
    assert not their.model.neck[0].get("relu_before_extra_convs", False)
    assert not cfg.MODEL.LIBRA.RETINANET.RELU_BEFORE_P7
    assert [ours.SCORE_THRESH_TEST, ours.NMS_THRESH_TEST] == [test.score_thr, test.nms.iou_threshold]
    assert ours.TOPK_CANDIDATES_TEST == test.nms_pre
    assert test.max_per_img == cfg.TEST.DETECTIONS_PER_IMAGE
