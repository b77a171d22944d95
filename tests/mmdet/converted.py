"""Models built from MMDetection's weights and the config that fits them, and what they detect."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

import libra_d2
from libra_d2.mmdet.names import to_detectron2

CONFIGS = Path(libra_d2.__file__).parents[1] / "configs" / "mmdet_compat"


def converted(oracle, opts=()):
    """The Libra model of an oracle's `state_dict`, in evaluation mode."""
    architecture, weights = to_detectron2(oracle["state_dict"])
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(CONFIGS / architecture.config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    model = build_model(cfg).eval()
    model.load_state_dict(weights)  # strict: every weight of the model comes from the file
    return model


@torch.no_grad()
def detect(model, image):
    """What the model returns for an image that is not resized, highest score first."""
    found = model([{"image": image}])[0]["instances"]
    return found[found.scores.sort(descending=True, stable=True).indices]


def agree(found, oracle) -> bool:
    """The same detections: boxes within 0.05 px, scores within 1e-4, whatever the order of equal scores."""
    if len(found) != len(oracle["boxes"]):
        return False
    same_class = found.pred_classes[:, None] == oracle["labels"]
    near = (found.pred_boxes.tensor[:, None] - oracle["boxes"]).abs().amax(-1) <= 0.05
    as_sure = (found.scores[:, None] - oracle["scores"]).abs() <= 1e-4
    pairs = same_class & near & as_sure
    return bool(pairs.any(0).all() and pairs.any(1).all())
