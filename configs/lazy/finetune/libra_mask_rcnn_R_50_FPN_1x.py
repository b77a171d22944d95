from detectron2 import model_zoo

from libra_d2.modeling import LibraROIHeads

from ..common.libra import to_recommended_rcnn

recipe = "finetune/libra_mask_rcnn_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
to_recommended_rcnn(model, LibraROIHeads)
