"""Detectron2's Faster R-CNN and ours, what they train on, and a stopwatch for their parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from libra_d2 import model_zoo

SIDES = ("libra_d2", "Detectron2")
SIZE = (800, 1088)


def build(side: str, *opts: object) -> torch.nn.Module:
    """R50-FPN with random weights, as both zoos configure it."""
    if side == "libra_d2":
        cfg = model_zoo.get_config("libra_faster_rcnn_R_50_FPN_1x.yaml")
    else:
        cfg = detectron2_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])
    torch.manual_seed(0)
    model = build_model(cfg)
    # Without statistics to normalise by, each residual block would double what comes in, and the RPN propose nothing.
    for name, buffer in model.named_buffers():
        if name.endswith("conv3.norm.weight"):
            buffer.zero_()
    return model


def picture(num_gts: int, size: tuple[int, int] = SIZE) -> dict:
    """Noise, and objects of 16 to 400 px at random places, as a model takes them for training."""
    rng = np.random.default_rng(num_gts)
    height, width = size
    sides = np.exp(rng.uniform(np.log(16), np.log(min(400, min(size) / 2)), (num_gts, 2)))
    corners = rng.uniform(0, 1, (num_gts, 2)) * (np.array([width, height]) - sides)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(np.concatenate([corners, corners + sides], axis=1), dtype=torch.float32))
    instances.gt_classes = torch.tensor(rng.integers(0, 80, num_gts))
    image = torch.tensor(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "height": height, "width": width, "instances": instances}


class Stopwatch:
    """Seconds spent in the parts of a model, by the name of the part, since the last :meth:`read`."""

    def __init__(self, model: torch.nn.Module):
        self._seconds: dict[str, float] = defaultdict(float)
        backbone, rpn, heads = model.backbone, model.proposal_generator, model.roi_heads
        self._time(backbone, "forward", "backbone and pyramid")
        if hasattr(backbone, "refine"):
            self._time(backbone.bottom_up, "forward", "backbone")
        self._time(rpn, "forward", "RPN")
        self._time(rpn, "label_and_sample_anchors", "RPN: assign and sample")
        self._time(rpn, "predict_proposals", "RPN: proposals and NMS")
        self._time(heads, "forward", "RoI heads")
        self._time(heads, "label_and_sample_proposals", "RoI: assign and sample")

    def _time(self, owner: object, name: str, part: str) -> None:
        function: Callable = getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[part] += time.perf_counter() - start

        setattr(owner, name, timed)

    def read(self) -> dict[str, float]:
        """Parts that do not overlap."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        both = seconds.pop("backbone and pyramid")
        seconds.setdefault("backbone", both)
        seconds["balanced pyramid"] = both - seconds["backbone"]
        seconds["RPN"] -= seconds["RPN: assign and sample"] + seconds["RPN: proposals and NMS"]
        seconds["RoI heads"] -= seconds["RoI: assign and sample"]
        return dict(seconds)
