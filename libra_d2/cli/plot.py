"""Draws what Libra R-CNN changes on your own model and data, or detections beside the ground truth.

examples:
  libra-d2 plot balance --config-file output/config.yaml --output output MODEL.WEIGHTS output/model_final.pth
  libra-d2 plot detections --config-file output/config.yaml --output detections.png \\
      MODEL.WEIGHTS output/model_final.pth

balance writes PNG and CSV: the paper's figures 3 and 5 and more.
  balance      the IoU of all negatives, of random picks and of IoU-balanced picks
  balanced_l1  balanced L1 beside smooth L1, and which errors of this model the gradient comes from
  levels       the features of each level before and after the balanced pyramid, where the model has one
detections draws images of the validation set.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.structures import BoxMode

from libra_d2.data.proposals import training_records
from libra_d2.data.train_loader import train_mapper
from libra_d2.engine.setup import setup
from libra_d2.inference import build_predictor, load_trained
from libra_d2.losses.balanced_l1 import balanced_l1_options
from libra_d2.modeling import BalancedFeaturePyramid, BalancedSampler
from libra_d2.visualize import balance, balanced_l1, pyramid, style
from libra_d2.visualize.detections import Scene, plot_detections
from libra_d2.visualize.recorder import record_training_boxes


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="balance|detections")
    of_balance, of_detections = pictures.add_parser("balance"), pictures.add_parser("detections")
    for picture in (of_balance, of_detections):
        picture.add_argument("--config-file", required=True, metavar="FILE", help="as saved in the output folder")
    of_balance.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the pictures go")
    of_balance.add_argument("--max-images", type=int, default=100, metavar="N", help="to look at (default: 100)")
    of_detections.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    of_detections.add_argument(
        "--num-images", type=int, default=2, metavar="N", help="those with most objects (default: 2)"
    )
    of_detections.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="lowest score that is drawn (default: 0.5)"
    )
    for picture in (of_balance, of_detections):
        picture.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, such as MODEL.WEIGHTS FILE")
    return parser


def run(args) -> int:
    draw = {"balance": draw_balance, "detections": draw_detections}[args.picture]
    draw(args)
    return 0


def draw_balance(args) -> None:
    # IoU-balanced picks are drawn beside random ones, whatever the model trained on.
    cfg = setup(args, reads=("TRAIN",), overrides=("MODEL.LIBRA.SAMPLER.NEGATIVE", "iou_balanced"))
    model = load_trained(cfg)
    samples = training_records(cfg)
    step = max(1, len(samples) // args.max_images)  # spread over the whole set
    loader = build_detection_test_loader(samples[::step], mapper=train_mapper(cfg), num_workers=0)
    batches = list(itertools.islice(loader, args.max_images))
    record = record_training_boxes(model, batches, BalancedSampler(cfg).options)

    args.output.mkdir(parents=True, exist_ok=True)
    style.save(balance.plot_balance(record), args.output / "balance.png")
    balance.write_balance_csv(record, args.output / "balance.csv")
    options = balanced_l1_options(cfg)
    style.save(balanced_l1.plot_balanced_l1(options, record.errors), args.output / "balanced_l1.png")
    balanced_l1.write_balanced_l1_csv(options, record.errors, args.output / "balanced_l1.csv")
    if isinstance(model.backbone, BalancedFeaturePyramid):
        statistics = pyramid.measure_levels(model, batches)
        style.save(pyramid.plot_levels(statistics), args.output / "levels.png")
        pyramid.write_levels_csv(statistics, args.output / "levels.csv")
    for name, shares in balance.interval_shares(record).items():
        print(f"{name + ':':<20}", "  ".join(f"{share:5.1f} %" for share in shares))
    names = ", ".join(sorted(path.name for path in args.output.glob("*.csv")))
    print(f"written to {args.output}: {names} and a PNG of each")


def draw_detections(args) -> None:
    cfg = setup(args, reads=("VAL",))
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
