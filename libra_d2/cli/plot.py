"""Draws your data, what Libra R-CNN changes on your own model and data, or detections beside the ground truth.

examples:
  libra-d2 plot data annotations.json images --output drawn
  libra-d2 plot balance --config-file output/config.yaml --output output MODEL.WEIGHTS output/model_final.pth
  libra-d2 plot detections --config-file output/config.yaml --output detections.png \\
      MODEL.WEIGHTS output/model_final.pth

data draws boxes, masks and class names on images, as training will read them; no model is needed.
balance writes PNG and CSV: the paper's figures 3 and 5 and more.
  balance      the IoU of all negatives, of random picks and of IoU-balanced picks
  balanced_l1  balanced L1 beside smooth L1, and which errors of this model the gradient comes from
  levels       the features of each level before and after the balanced pyramid, where the model has one
detections draws images of the validation set.
"""

from __future__ import annotations

import argparse
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
from PIL import Image

from libra_d2.checks import FileError, UserError
from libra_d2.cli.predict import output_names
from libra_d2.data.image import read_8_bits
from libra_d2.data.proposals import training_records
from libra_d2.data.subset import evenly_spread
from libra_d2.data.train_loader import train_mapper
from libra_d2.engine.setup import setup
from libra_d2.inference import build_predictor, load_trained
from libra_d2.inference.inputs import ImageFile
from libra_d2.losses.balanced_l1 import balanced_l1_options
from libra_d2.modeling import BalancedFeaturePyramid, BalancedSampler
from libra_d2.visualize import balance, balanced_l1, pyramid, style
from libra_d2.visualize.annotations import draw_annotations
from libra_d2.visualize.detections import Scene, plot_detections
from libra_d2.visualize.recorder import record_training_boxes


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="data|balance|detections")
    of_data = pictures.add_parser("data")
    of_data.set_defaults(config_file="", opts=[])
    of_data.add_argument("train_json", metavar="ANNOTATIONS.json")
    of_data.add_argument("train_images", metavar="IMAGE_DIR")
    of_data.add_argument("--output", required=True, metavar="DIR", help="where the drawings go")
    of_data.add_argument(
        "--num-images", type=int, default=20, metavar="N", help="spread over the whole set; 0: all (default: 20)"
    )
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
    draw = {"data": draw_data, "balance": draw_balance, "detections": draw_detections}[args.picture]
    draw(args)
    return 0


def draw_data(args) -> None:
    if args.num_images < 0:
        raise UserError(f"--num-images: expected a number of images, or 0 for all, got {args.num_images}")
    cfg = setup(args, reads=("TRAIN",))
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    records = evenly_spread(records, args.num_images or len(records))
    files = output_names([ImageFile(record["file_name"]) for record in records], args.output)
    for record, file in zip(records, files, strict=True):
        try:
            image = read_8_bits(record["file_name"])
        except Exception as error:  # Pillow raises whatever a damaged file leads its decoders to
            raise FileError(f"{record['file_name']}: cannot be read ({type(error).__name__}: {error})") from error
        Image.fromarray(draw_annotations(image[:, :, ::-1], record["annotations"], names)).save(file)
    objects = sum(len(record["annotations"]) for record in records)
    print(f"{len(records)} images with {objects} objects are drawn in {args.output}")


def draw_balance(args) -> None:
    # IoU-balanced picks are drawn beside random ones, whatever the model trained on.
    cfg = setup(args, reads=("TRAIN",), overrides=("MODEL.LIBRA.SAMPLER.NEGATIVE", "iou_balanced"))
    model = load_trained(cfg)
    samples = evenly_spread(training_records(cfg), args.max_images)
    batches = list(build_detection_test_loader(samples, mapper=train_mapper(cfg), num_workers=0))
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
