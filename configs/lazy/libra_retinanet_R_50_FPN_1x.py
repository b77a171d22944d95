from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from libra_d2.losses import balanced_l1_of
from libra_d2.modeling import LibraRetinaNet

from .common.libra import to_libra

recipe = "libra_retinanet_R_50_FPN_1x.yaml"
model = model_zoo.get_config("common/models/retinanet.py").model
to_libra(model)
model.update(_target_=LibraRetinaNet, box_loss=L(balanced_l1_of)(beta=0.11))
