#!/usr/bin/env python
"""Draws a model's detections and the ground truth on images of its validation set.

    python tools/plot_detections.py --config-file output/quickstart/config.yaml --output detections.png \\
        MODEL.WEIGHTS output/quickstart/model_final.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.structures import BoxMode

from libra_d2.data import register_datasets
from libra_d2.engine import build_predictor, load_config
from libra_d2.visualize import style
from libra_d2.visualize.detections import Scene, plot_detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="as saved in the training's output folder")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--num-images", type=int, default=2, metavar="N", help="those with most objects (default: 2)")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="lowest score that is drawn (default: 0.5)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, such as MODEL.WEIGHTS FILE")
    args = parser.parse_args()

    cfg = load_config(args.config_file, args.opts)
    register_datasets(cfg)
    predictor = build_predictor(cfg)
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    samples = sorted(DatasetCatalog.get(cfg.DATASETS.TEST[0]), key=lambda sample: -len(sample["annotations"]))
    scenes = [scene(predictor, sample, names, args.confidence_threshold) for sample in samples[: args.num_images]]
    style.save(plot_detections(scenes), args.output, dpi=120)


def scene(predictor: DefaultPredictor, sample: dict, names: list[str], threshold: float) -> Scene:
    image = read_image(sample["file_name"], format="BGR")
    found = predictor(image)["instances"].to("cpu")
    found = found[found.scores >= threshold]
    truth = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in sample["annotations"]
        if not annotation.get("iscrowd")
    ]
    return Scene(
        image=image[:, :, ::-1],
        truth=np.asarray(truth, dtype=float).reshape(-1, 4),
        boxes=found.pred_boxes.tensor.numpy(),
        scores=found.scores.numpy(),
        labels=[names[c] if len(names) > 1 else "" for c in found.pred_classes.tolist()],
    )


if __name__ == "__main__":
    main()
