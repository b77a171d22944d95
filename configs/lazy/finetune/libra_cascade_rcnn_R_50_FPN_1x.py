from detectron2 import model_zoo

from libra_d2.modeling import LibraCascadeROIHeads

from ..common.libra import to_libra_rcnn

recipe = "finetune/libra_cascade_rcnn_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/cascade_rcnn.py").model  # with the masks that the checkpoint has
to_libra_rcnn(model, LibraCascadeROIHeads)
model.backbone.init = "identity"  # start exactly at the checkpoint's own detections
