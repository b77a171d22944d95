from ..libra_retinanet_R_50_FPN_1x import model

recipe = "finetune/libra_retinanet_R_50_FPN_1x.yaml"
model.backbone.init = "identity"  # start exactly at the checkpoint's own detections
