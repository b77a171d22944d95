from .libra_mask_rcnn_R_50_FPN_1x import model

recipe = "finetune/libra_mask_rcnn_R_101_FPN_1x.yaml"
model.backbone.bottom_up.stages.depth = 101
