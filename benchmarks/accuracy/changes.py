"""Single changes of a recipe, as lists of KEY VALUE pairs, for the arms and for the screens' factors."""

from __future__ import annotations

_LIBRA, _BOX, _PROPOSALS = "MODEL.LIBRA", "MODEL.ROI_BOX_HEAD", "MODEL.RPN"

POSITIVES = [f"{_LIBRA}.SAMPLER.POSITIVE", "instance_balanced"]
NEGATIVES = [f"{_LIBRA}.SAMPLER.NEGATIVE", "iou_balanced"]
BALANCED_L1 = [f"{_BOX}.BBOX_REG_LOSS_TYPE", "balanced_l1"]
# Half of the negatives below an IoU of 0.1, the others drawn evenly over IoU above it
FLOOR = [f"{_LIBRA}.SAMPLER.FLOOR_THR", "0.1", f"{_LIBRA}.SAMPLER.FLOOR_FRACTION", "0.5"]
# A pyramid that begins as the identity, and one whose attention begins as MMDetection's
GATED_PYRAMID = [f"{_LIBRA}.BFP.ENABLED", "True", f"{_LIBRA}.BFP.REFINE_TYPE", "conv", f"{_LIBRA}.BFP.INIT", "identity"]
MMDET_PYRAMID = [f"{_LIBRA}.BFP.ENABLED", "True", f"{_LIBRA}.BFP.REFINE_TYPE", "non_local"]
MMDET_PYRAMID += [f"{_LIBRA}.BFP.INIT", "mmdet"]
# Detectron2's RPN: no limit of negatives, a fixed divisor; and Libra's
RPN_PLAIN = [f"{_LIBRA}.RPN.NEG_POS_UB", "-1.0", f"{_LIBRA}.RPN.NORMALIZER", "fixed"]
RPN_LIMITED = [f"{_LIBRA}.RPN.NEG_POS_UB", "5.0", f"{_LIBRA}.RPN.NORMALIZER", "sampled"]

HALF_WEIGHT = [f"{_BOX}.BBOX_REG_LOSS_WEIGHT", "0.5"]
DOUBLE_WEIGHT = [f"{_BOX}.BBOX_REG_LOSS_WEIGHT", "2.0"]
FEW_PROPOSALS = [f"{_PROPOSALS}.PRE_NMS_TOPK_TRAIN", "500", f"{_PROPOSALS}.POST_NMS_TOPK_TRAIN", "250"]
MANY_PROPOSALS = [f"{_PROPOSALS}.PRE_NMS_TOPK_TRAIN", "2000", f"{_PROPOSALS}.POST_NMS_TOPK_TRAIN", "1000"]
AGNOSTIC_BOXES = [f"{_BOX}.CLS_AGNOSTIC_BBOX_REG", "True"]
PISA = [f"{_LIBRA}.PISA.ENABLED", "True"]
SEESAW = [f"{_LIBRA}.CLASS_LOSS.NAME", "seesaw"]
FOCAL = [f"{_LIBRA}.CLASS_LOSS.NAME", "focal"]
OF_THE_SET = "class weights of the set"  # a job has them from its set
CLASS_WEIGHTS = [f"{_LIBRA}.CLASS_LOSS.WEIGHTS", OF_THE_SET]
GIOU = [f"{_BOX}.BBOX_REG_LOSS_TYPE", "giou"]
REPEATED = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.3"]
