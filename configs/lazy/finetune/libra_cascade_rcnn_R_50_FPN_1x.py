from detectron2 import model_zoo

from libra_d2.modeling import LibraCascadeROIHeads

from ..common.libra import to_recommended_rcnn

recipe = "finetune/libra_cascade_rcnn_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/cascade_rcnn.py").model  # with the masks that the checkpoint has
to_recommended_rcnn(model, LibraCascadeROIHeads)
model.proposal_generator.post_nms_topk = (2000, 1000)
