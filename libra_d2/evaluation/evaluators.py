"""Chooses the evaluator of Detectron2 that fits a data set."""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator

from libra_d2.checks import UserError
from libra_d2.data.coco_json import complete_metadata
from libra_d2.evaluation.coco import FasterCOCOEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str = "inference") -> DatasetEvaluator:
    """COCO's AP, or the metric of LVIS or Pascal VOC; predictions go to that ``folder`` of ``OUTPUT_DIR``.

    Raises:
        UserError: the data set is one of panoptic or semantic segmentation alone.
    """
    output_dir = os.path.join(cfg.OUTPUT_DIR, folder)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "lvis":
        return LVISEvaluator(dataset_name, output_dir=output_dir)
    if kind not in ("coco", "coco_panoptic_seg"):
        raise UserError(f"{dataset_name}: expected a data set of boxes or masks, got evaluator_type {kind!r}")
    complete_metadata(dataset_name)
    # COCO counts the best 100 detections of an image; a config that asks for more has scenes that need more.
    limit = cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.DETECTIONS_PER_IMAGE > 100 else None
    return FasterCOCOEvaluator(dataset_name, output_dir=output_dir, max_dets_per_image=limit, allow_cached_coco=False)
