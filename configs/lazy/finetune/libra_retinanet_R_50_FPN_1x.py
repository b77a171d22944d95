from detectron2 import model_zoo

from ..common.libra import to_recommended_retinanet

recipe = "finetune/libra_retinanet_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/retinanet.py").model
to_recommended_retinanet(model)
