from ..common.libra import without_masks
from .libra_mask_rcnn_R_50_FPN_1x import model

recipe = "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml"
without_masks(model)
