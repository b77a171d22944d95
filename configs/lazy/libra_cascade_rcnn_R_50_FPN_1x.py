from detectron2 import model_zoo

from libra_d2.modeling import LibraCascadeROIHeads

from .common.libra import to_libra_rcnn, without_masks

recipe = "libra_cascade_rcnn_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/cascade_rcnn.py").model
to_libra_rcnn(model, LibraCascadeROIHeads)
without_masks(model)
