"""Detectron2's Faster R-CNN and ours, data for them, a training step, and a stopwatch for their parts."""

from __future__ import annotations

import json
import logging
import statistics
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from libra_d2.config.files import load_config
from libra_d2.engine.setup import setup

SIDES = ("libra_d2", "Detectron2")
SIZE = (800, 1088)
QUICKSTART = "quickstart/libra_faster_rcnn_trees.yaml"
# All three parts, balanced L1 alone, and all three in a small model
CONFIGS = {
    "R50-FPN": "libra_faster_rcnn_R_50_FPN_1x.yaml",
    "R50-FPN, recommended": "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml",
    "quickstart": QUICKSTART,
}
SIZES = {kind: (320, 320) if kind == "quickstart" else SIZE for kind in CONFIGS}
_ALL_PARTS = ["MODEL.LIBRA.SAMPLER.POSITIVE", "instance_balanced", "MODEL.LIBRA.SAMPLER.NEGATIVE", "iou_balanced"]
_ALL_PARTS += ["MODEL.LIBRA.BFP.ENABLED", True]
_ALL_PARTS += ["MODEL.LIBRA.RPN.NEG_POS_UB", 5.0, "MODEL.LIBRA.RPN.NORMALIZER", "sampled"]
# Detectron2's own classes on a backbone that it lacks
_PLAIN = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
_PLAIN += ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1"]

# The constructors of the trainers would otherwise set up loggers that write between the tables.
logging.getLogger("detectron2").setLevel(logging.INFO)


class Data(NamedTuple):
    """A COCO json and its folder of images, to train and to evaluate on."""

    json_file: Path
    images: Path
    classes: int


def config(side: str, *opts: object, kind: str = "R50-FPN", data: Data | None = None) -> CfgNode:
    """The config of a kind of model in :data:`CONFIGS`, as either side has it, on the CPU and without weights."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts]
    if side == "libra_d2":
        given = (data.json_file, data.images) if data else ("", "")
        opts = [*(_ALL_PARTS if kind == "quickstart" else ()), *opts]
        flags = dict(zip(("train_json", "train_images", "val_json", "val_images"), map(str, given * 2), strict=True))
        return setup(Namespace(config_file=CONFIGS[kind], opts=opts, **flags))
    if kind == "quickstart":
        cfg = load_config(QUICKSTART, _PLAIN)
    else:
        cfg = detectron2_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    if data:
        if data.json_file.stem not in DatasetCatalog:
            register_coco_instances(data.json_file.stem, {}, str(data.json_file), str(data.images))
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (data.json_file.stem,)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = data.classes
    cfg.merge_from_list(opts)
    return cfg


def build(side: str, *opts: object, kind: str = "R50-FPN") -> torch.nn.Module:
    """The model of :func:`config`, with the same random weights and the same detections on either side.

    A pyramid of ours begins as the identity: it computes all that it does, and adds nothing yet.
    """
    if side == "libra_d2":
        model = build_model(config(side, "MODEL.LIBRA.BFP.INIT", "identity", *opts, kind=kind))
        model.load_state_dict(build("Detectron2", *opts, kind=kind).state_dict(), strict=False)
        return model
    cfg = config(side, *opts, kind=kind)
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
    instances.gt_classes = torch.zeros(num_gts, dtype=torch.int64)  # which every kind has
    image = torch.tensor(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "height": height, "width": width, "instances": instances}


def write_data(folder: Path, count: int, size: tuple[int, int], classes: int) -> Data:
    """Writes ``count`` JPEG files about as large as photographs of that size, with eight objects each."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        sample, rng = picture(8, size), np.random.default_rng(number)
        coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": size[0], "width": size[1]})
        for x0, y0, x1, y1 in sample["instances"].gt_boxes.tensor.tolist():
            annotation = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            category = 1 + int(rng.integers(classes))
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **annotation})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)]
    json_file = folder.with_suffix(".json")
    json_file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return Data(json_file, folder, classes)


def by_parts(
    models: Mapping[str, torch.nn.Module], run: Callable[[torch.nn.Module], dict[str, float]], turns: int
) -> dict[str, dict[str, float]]:
    """{side: {part: median seconds}}, "whole" among the parts. The sides take turns; the first is not counted.

    A GPU is waited for at the end of each part, which costs time: there, "whole" is measured without the parts.

    Args:
        run: uses a model, and returns the seconds of parts that a :class:`Stopwatch` does not know.
    """
    wholes = {side: [] for side in models}
    if any(map(on_gpu, models.values())):
        for _ in range(turns + 1):
            for side, model in models.items():
                wholes[side].append(seconds_of(model, lambda model=model: run(model))[0])
    watches = {side: Stopwatch(model) for side, model in models.items()}
    seen = {side: [] for side in models}
    for _ in range(turns + 1):
        for side, model in models.items():
            whole, others = seconds_of(model, lambda model=model: run(model))
            seen[side].append({**watches[side].read(), **others, "whole": whole})
    found = {
        side: {part: statistics.median(turn[part] for turn in runs[1:]) for part in runs[0]}
        for side, runs in seen.items()
    }
    for side, values in wholes.items():
        if values:
            found[side]["whole"] = statistics.median(values[1:])
    return found


def on_gpu(model: torch.nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def seconds_of(model: torch.nn.Module, run: Callable[[], object]) -> tuple[float, object]:
    """What ``run`` takes and returns; the GPU is waited for before and after where the model is on one."""
    wait = torch.cuda.synchronize if on_gpu(model) else lambda: None
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - start, result


def step(model, batch: list[dict], amp: bool = False) -> dict[str, float]:
    """Forward and backward, gradients of weights included; returns the seconds of the backward pass."""
    # a step that logs nothing
    with EventStorage(1), torch.autocast("cuda" if on_gpu(model) else "cpu", enabled=amp):
        loss = sum(model(batch).values())
    backward, _ = seconds_of(model, loss.backward)
    model.zero_grad(set_to_none=True)
    return {"backward": backward}


class Stopwatch:
    """Seconds spent in the parts of a model, by the name of the part, since the last :meth:`read`."""

    def __init__(self, model: torch.nn.Module):
        self._seconds: dict[str, float] = defaultdict(float)
        self._model = model
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
            seconds, result = seconds_of(self._model, lambda: function(*args, **kwargs))
            self._seconds[part] += seconds
            return result

        setattr(owner, name, timed)

    def read(self) -> dict[str, float]:
        """Parts that do not overlap."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        both = seconds.pop("backbone and pyramid")
        seconds.setdefault("backbone", both)
        seconds["balanced pyramid"] = both - seconds["backbone"]
        seconds["RPN"] -= seconds.get("RPN: assign and sample", 0) + seconds["RPN: proposals and NMS"]
        seconds["RoI heads"] -= seconds.get("RoI: assign and sample", 0)
        return dict(seconds)
