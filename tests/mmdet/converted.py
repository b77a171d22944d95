"""Models built from MMDetection's weights and the config that fits them, and what they detect."""

from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

import libra_d2
from libra_d2.mmdet.names import to_detectron2

CONFIGS = Path(libra_d2.__file__).parents[1] / "configs" / "mmdet_compat"


def converted(oracle, opts=()):
    """The Libra model of an oracle's `state_dict`, in evaluation mode, that computes `in_float64`."""
    architecture, weights = to_detectron2(oracle["state_dict"])
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(CONFIGS / architecture.config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    model = build_model(cfg).eval()
    model.load_state_dict(weights)  # strict: every weight of the model comes from the file
    return in_float64(model)


def in_float64(model):
    """The model with all layers in float64 and what its heads return in float32, the type of Detectron2's boxes.

    The rounding of a convolution in float32 depends on the processor and the number of threads. Fifty layers make it
    2e-4 in the features, which also takes some inputs of ReLUs to the other side of 0.
    """

    def in_float32(module, inputs, outputs):
        return tuple([x.float() for x in out] if isinstance(out, list) else out.float() for out in outputs)

    for module in model.modules():
        if isinstance(module, (StandardRPNHead, RetinaNetHead, FastRCNNOutputLayers)):
            module.register_forward_hook(in_float32)
    return model.double()


@torch.no_grad()
def detect(model, image):
    """What the model returns for an image that is not resized, highest score first."""
    found = model([{"image": image}])[0]["instances"]
    return found[found.scores.sort(descending=True, stable=True).indices]


def agree(found, oracle) -> bool:
    """The same detections: boxes within 1e-3 px, scores within 1e-5, whatever the order of equal scores."""
    if len(found) != len(oracle["boxes"]):
        return False
    same_class = found.pred_classes[:, None] == oracle["labels"]
    near = (found.pred_boxes.tensor[:, None] - oracle["boxes"]).abs().amax(-1) <= 1e-3
    as_sure = (found.scores[:, None] - oracle["scores"]).abs() <= 1e-5
    pairs = same_class & near & as_sure
    return bool(pairs.any(0).all() and pairs.any(1).all())
