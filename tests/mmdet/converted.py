"""Models built from MMDetection's weights and the config that fits them."""

from pathlib import Path

from detectron2.modeling import build_model

import libra_d2
from libra_d2.checkpoint.mmdet import to_detectron2

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
