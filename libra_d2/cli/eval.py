"""Evaluates a trained model, as ``train --eval-only`` does: COCO AP, overall and of each class; and writes a report.

examples:
  libra-d2 eval --config-file output/config.yaml MODEL.WEIGHTS output/model_final.pth
  libra-d2 eval --config-file output/config.yaml --tile 640 --overlap 0.2 MODEL.WEIGHTS output/model_final.pth

The report goes to OUTPUT_DIR/report: tables by class and size, precision and recall, mistakes by kind, what is taken
for what, the worst images; report.html has them all and needs no network.
"""

import argparse
import json
import logging
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from libra_d2.cli import train
from libra_d2.data.coco_json import complete_metadata
from libra_d2.engine.setup import add_tile_arguments

logger = logging.getLogger(__name__)


def argument_parser(prog: str) -> argparse.ArgumentParser:
    parser = train.argument_parser(prog)
    parser.description = __doc__
    add_tile_arguments(parser)
    parser.set_defaults(eval_only=True)
    return parser


def run(args) -> int:
    cfg = train.prepare(args)
    status = train.start(args, cfg)
    if status == 0 and int(os.environ.get("RANK", 0)) == 0:
        _report(cfg)
    return status


def _report(cfg: CfgNode) -> None:
    from libra_d2.visualize.report import write_report  # matplotlib, which no rank needs

    folder = Path(cfg.OUTPUT_DIR, "inference")
    for name in cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type", "coco") != "coco" or len(cfg.DATASETS.TEST) > 1:
            logger.info(f"{name}: there is no report of data sets other than COCO's kind, nor of several at once")
            continue
        complete_metadata(name)
        converted = folder / f"{name}_coco_format.json"
        results = json.loads((folder / "coco_instances_results.json").read_text(encoding="utf-8"))
        if not results:
            logger.info(f"{name}: there is no report, because nothing was detected")
            continue
        truth = COCO(metadata.get("json_file") or str(converted))
        page = write_report(
            Path(cfg.OUTPUT_DIR, "report"),
            truth,
            results,
            title=f"{name}: {os.path.basename(cfg.MODEL.WEIGHTS)}",
            image_root=metadata.get("image_root", ""),
            max_detections=max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        )
        logger.info(f"The report is {page}")
