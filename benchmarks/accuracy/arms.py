"""The arms: lists of KEY VALUE pairs on top of a recipe; the last pair of a key counts."""

from __future__ import annotations

import screens
from changes import (
    AGNOSTIC_BOXES,
    BALANCED_L1,
    CLASS_WEIGHTS,
    FEW_PROPOSALS,
    FLOOR,
    FOCAL,
    GATED_PYRAMID,
    GIOU,
    HALF_WEIGHT,
    MMDET_PYRAMID,
    NEGATIVES,
    PISA,
    POSITIVES,
    REPEATED,
    RPN_LIMITED,
    RPN_PLAIN,
    SEESAW,
)

_SAMPLER, _BFP, _RPN, _BOX = (f"MODEL.{part}" for part in ("LIBRA.SAMPLER", "LIBRA.BFP", "LIBRA.RPN", "ROI_BOX_HEAD"))

SAMPLING = POSITIVES + NEGATIVES
BFP = [f"{_BFP}.ENABLED", "True", f"{_BFP}.REFINE_TYPE", "non_local"]
INTEGRATE = [*BFP, f"{_BFP}.REFINE_TYPE", "none"]
FEW_BOXES = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"]
# Our classes with all three parts off, but the RPN of the authors' recipe; a pyramid that is added begins as theirs
BASELINE = [f"{_SAMPLER}.POSITIVE", "random", f"{_SAMPLER}.NEGATIVE", "random", *RPN_LIMITED]
BASELINE += [f"{_BFP}.ENABLED", "False", f"{_BFP}.INIT", "xavier"]
BASELINE += [f"{_BOX}.BBOX_REG_LOSS_TYPE", "smooth_l1", f"{_BOX}.SMOOTH_L1_BETA", "0.0"]  # L1
LIBRA = BASELINE + SAMPLING + BFP + BALANCED_L1
DETECTRON2 = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
DETECTRON2 += ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
# Detectron2's recipe with one thing of Libra
RECOMMENDED = [*BASELINE, *RPN_PLAIN, *BALANCED_L1]
PYRAMID = [*BASELINE, *RPN_PLAIN, *GATED_PYRAMID]
# What the first two screens spoke for beside balanced L1
_LESS = HALF_WEIGHT + FEW_PROPOSALS

# What is judged by the test seeds
PARTS = {
    "detectron2": BASELINE + DETECTRON2,
    "baseline": BASELINE,
    "sampling": BASELINE + SAMPLING,
    "bfp": BASELINE + BFP,
    "balanced_l1": BASELINE + BALANCED_L1,
    "libra": LIBRA,
    # what the third screen chose, before any of its test seeds was run
    "recommended": RECOMMENDED,
}

# One change each, to find out what a part owes to what: judged by the search seeds alone
CAUSES = {
    # the pyramid: its first steps, its attention, its averaging of levels
    "bfp_identity": [*BASELINE, *BFP, f"{_BFP}.INIT", "identity"],
    "bfp_zero": [*BASELINE, *BFP, f"{_BFP}.INIT", "zero"],
    "bfp_mmdet": BASELINE + MMDET_PYRAMID,
    "bfp_cosine": [*BASELINE, *BFP, f"{_BFP}.ATTENTION", "cosine"],
    "bfp_integrate": BASELINE + INTEGRATE,
    "bfp_conv": [*BASELINE, *BFP, f"{_BFP}.REFINE_TYPE", "conv"],
    # the RPN's limit of five negatives a positive, and its divisor: the baseline has both, rpn_plain neither
    "rpn_plain": [*BASELINE, *RPN_PLAIN],
    "rpn_limit": [*BASELINE, f"{_RPN}.NEG_POS_UB", "5.0", f"{_RPN}.NORMALIZER", "fixed"],
    "rpn_normalizer": [*BASELINE, f"{_RPN}.NEG_POS_UB", "-1.0", f"{_RPN}.NORMALIZER", "sampled"],
    # the picks
    "positives": BASELINE + POSITIVES,
    "negatives": BASELINE + NEGATIVES,
    "sampling_floor": BASELINE + SAMPLING + FLOOR,
    # where sampling has more to choose from: a quarter of the boxes
    "few_baseline": [*BASELINE, *FEW_BOXES],
    "few_sampling": [*BASELINE, *SAMPLING, *FEW_BOXES],
    # what the first two screens spoke for on a search seed, the same at full weight, and Detectron2's own keys of it
    "less": [*RECOMMENDED, *_LESS],
    "less_full_weight": [*RECOMMENDED, *_LESS, f"{_BOX}.BBOX_REG_LOSS_WEIGHT", "1.0"],
    "detectron2_less": [*BASELINE, *DETECTRON2, *_LESS],
    # what else changes Detectron2's recipe least
    "pyramid": PYRAMID,
    "pyramid_balanced_l1": [*PYRAMID, *BALANCED_L1],
    # the loss: its slope at large errors, as a weight of L1, lower weights, and a balanced L1 without the slope
    "l1_weight": [*BASELINE, f"{_BOX}.BBOX_REG_LOSS_WEIGHT", "1.5"],
    "half_weight": [*BASELINE, *RPN_PLAIN, *HALF_WEIGHT],
    "quarter_weight": [*BASELINE, *RPN_PLAIN, f"{_BOX}.BBOX_REG_LOSS_WEIGHT", "0.25"],
    "balanced_l1_gamma_1": [*BASELINE, *BALANCED_L1, "MODEL.LIBRA.BALANCED_L1.GAMMA", "1.0"],
    # rivals, ours and Detectron2's own
    "pisa": BASELINE + PISA,
    "focal": BASELINE + FOCAL,
    "class_weights": BASELINE + CLASS_WEIGHTS,
    "seesaw": BASELINE + SEESAW,
    "giou": BASELINE + GIOU,
    "repeat_factor": BASELINE + REPEATED,
    "agnostic_boxes": [*BASELINE, *RPN_PLAIN, *AGNOSTIC_BOXES],
    # together
    "integrate_balanced_l1": BASELINE + INTEGRATE + BALANCED_L1,
    "libra_identity": [*LIBRA, f"{_BFP}.INIT", "identity"],
    "libra_integrate": [*LIBRA, f"{_BFP}.REFINE_TYPE", "none"],
    "libra_conv": [*LIBRA, f"{_BFP}.REFINE_TYPE", "conv"],
    "libra_random_positives": [*LIBRA, f"{_SAMPLER}.POSITIVE", "random"],
    "libra_random_negatives": [*LIBRA, f"{_SAMPLER}.NEGATIVE", "random"],
}
ARMS = PARTS | CAUSES | screens.arms(BASELINE)
