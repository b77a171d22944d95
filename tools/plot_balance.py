#!/usr/bin/env python
"""Draws what Libra R-CNN changes on one's own model and data: the paper's figures 3 and 5 and more, PNG and CSV.

    python tools/plot_balance.py --config-file output/quickstart/config.yaml --output output/quickstart \\
        MODEL.WEIGHTS output/quickstart/model_final.pth

balance.png: the IoU of all negatives, of random picks and of IoU-balanced picks.
balanced_l1.png: balanced L1 beside smooth L1, and which errors of this model the gradient comes from.
levels.png: the features of each level before and after the balanced pyramid, where the model has one.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.modeling import build_model

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.data import register_datasets
from libra_d2.data.train_loader import train_mapper
from libra_d2.engine import load_config
from libra_d2.modeling.bfp import BalancedFeaturePyramid
from libra_d2.modeling.box_predictor import balanced_l1_options
from libra_d2.modeling.box_sampler import BalancedSampler
from libra_d2.visualize import balance, balanced_l1, pyramid, style
from libra_d2.visualize.recorder import record_training_boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="as saved in the training's output folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the pictures go")
    parser.add_argument("--max-images", type=int, default=100, metavar="N", help="of the training set (default: 100)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, such as MODEL.WEIGHTS FILE")
    args = parser.parse_args()

    cfg = load_config(args.config_file, args.opts)
    register_datasets(cfg)
    model = build_model(cfg)
    LibraCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    samples = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    step = max(1, len(samples) // args.max_images)  # spread over the whole set
    loader = build_detection_test_loader(samples[::step], mapper=train_mapper(cfg), num_workers=0)
    batches = list(itertools.islice(loader, args.max_images))
    cfg.MODEL.LIBRA.SAMPLER.NEGATIVE = "iou_balanced"  # drawn beside random picks, whatever the model trained on
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


if __name__ == "__main__":
    main()
